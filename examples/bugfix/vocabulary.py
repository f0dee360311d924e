"""The words that projects are made of, by domain; knows nothing of code or bugs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """What one kind of project talks about."""

    modules: tuple[str, ...]
    many: str
    one: str
    numbers: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    names: tuple[str, ...]
    holder: str


def _domain(
    modules: str, nouns: str, numbers: str, label: str, labels: str, names: str, holder: str
) -> Domain:
    many, one = nouns.split()
    return Domain(
        tuple(modules.split()),
        many,
        one,
        tuple(numbers.split()),
        label,
        tuple(labels.split()),
        tuple(names.split()),
        holder,
    )


DOMAINS: tuple[Domain, ...] = (
    _domain(
        "stock shelf depot",
        "items item",
        "price count weight",
        "kind",
        "metal wood paper",
        "bolt nut gear pipe",
        "Store",
    ),
    _domain(
        "bank ledger money",
        "payments payment",
        "amount fee tax",
        "account",
        "main spare joint",
        "rent food fuel gift",
        "Wallet",
    ),
    _domain(
        "grades school marks",
        "pupils pupil",
        "score credits age",
        "course",
        "art math music",
        "ann bob eve tom",
        "Register",
    ),
    _domain(
        "logs events trace",
        "entries entry",
        "size delay retries",
        "level",
        "info warn error",
        "boot load save stop",
        "Journal",
    ),
    _domain(
        "agenda rooms plan",
        "meetings meeting",
        "start length seats",
        "room",
        "blue green red",
        "sync demo talk chat",
        "Planner",
    ),
    _domain(
        "books library loans",
        "books book",
        "pages copies year",
        "genre",
        "crime poetry travel",
        "emma dune ivan hamlet",
        "Library",
    ),
    _domain(
        "sensors probes meter",
        "readings reading",
        "value depth height",
        "site",
        "north south east",
        "p1 p2 p3 p4",
        "Station",
    ),
    _domain(
        "trips travel routes",
        "trips trip",
        "distance fare stops",
        "city",
        "rome oslo lima",
        "a1 b2 c3 d4",
        "Route",
    ),
    _domain(
        "kitchen recipes menu",
        "recipes recipe",
        "grams minutes portions",
        "course",
        "soup main sweet",
        "stew cake rice pie",
        "Pantry",
    ),
    _domain(
        "league scores teams",
        "players player",
        "points games fouls",
        "team",
        "lions bears owls",
        "kim lee max zoe",
        "Team",
    ),
    _domain(
        "music tracks playlist",
        "tracks track",
        "seconds plays rating",
        "artist",
        "abel cora dina",
        "dawn rain echo tide",
        "Playlist",
    ),
    _domain(
        "farm fields harvest",
        "crops crop",
        "tons rows area",
        "field",
        "hill lake barn",
        "corn rye oats hops",
        "Barn",
    ),
    _domain(
        "orders shop cart",
        "orders order",
        "total units rank",
        "status",
        "open paid sent",
        "o1 o2 o3 o4",
        "Cart",
    ),
    _domain(
        "parking garage lots",
        "cars car",
        "hours wheels toll",
        "zone",
        "inner outer staff",
        "vw bmw kia fiat",
        "Garage",
    ),
)
