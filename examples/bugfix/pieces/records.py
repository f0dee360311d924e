"""Pieces that work on lists of records; knows nothing of bugs."""

from collections.abc import Callable
from random import Random

from examples.bugfix.pieces.piece import Case, Draw, Piece, Value, calls, literal

Sample = Callable[[Random], tuple[Value, ...]]


def _records(
    d: Draw, *fields: str, label: bool = False, name: bool = False, top: int = 9, high: int = 3
) -> Callable[[Random], list[dict[str, Value]]]:
    """A sampler of short lists of records with these fields."""
    domain = d.domain

    def sample(rng: Random) -> list[dict[str, Value]]:
        count = rng.randint(2, high)
        names = rng.sample(domain.names, count)
        rows: list[dict[str, Value]] = []
        for index in range(count):
            row: dict[str, Value] = {}
            if name:
                row["name"] = names[index]
            if label:
                row[domain.label] = rng.choice(domain.labels[:2])
            row.update({key: rng.randint(1, top) for key in fields})
            rows.append(row)
        return rows

    return sample


def total(d: Draw) -> Piece:
    f = d.fields(1)[0]
    many, x = d.domain.many, d.pick(d.domain.one, "row", "x")
    acc = d.pick("total", "result", "acc")
    name = d.name(f"total_{f}", f"sum_{f}", f"{many}_{f}")
    body = d.pick(
        f'{acc} = 0\nfor {x} in {many}:\n    {acc} += {x}["{f}"]\nreturn {acc}',
        f'return sum({x}["{f}"] for {x} in {many})',
        f'{acc} = 0\nfor i in range(len({many})):\n    {acc} += {many}[i]["{f}"]\nreturn {acc}',
    )
    rows = _records(d, f)
    return d.single(name, many, body, f"the sum of {f} over all {many}", lambda r: (rows(r),))


def product_total(d: Draw) -> Piece:
    f, g = d.fields(2)
    many, x = d.domain.many, d.pick(d.domain.one, "row", "x")
    acc = d.pick("total", "result", "worth")
    name = d.name(f"{f}_by_{g}", f"weighted_{f}", f"{many}_worth")
    body = d.pick(
        f'{acc} = 0\nfor {x} in {many}:\n    {acc} += {x}["{f}"] * {x}["{g}"]\nreturn {acc}',
        f'return sum({x}["{f}"] * {x}["{g}"] for {x} in {many})',
    )
    rows = _records(d, f, g)
    return d.single(name, many, body, f"the sum of {f} times {g}", lambda r: (rows(r),))


def at_least(d: Draw) -> Piece:
    f = d.fields(1)[0]
    many, x = d.domain.many, d.pick(d.domain.one, "row", "x")
    bound, found = d.pick("limit", "low", "least"), d.pick("found", "kept", "result")
    op, words = d.rng.choice(
        [(">=", "at least"), (">", "more than"), ("<=", "at most"), ("<", "less than")]
    )
    name = d.name(f"filter_{many}", f"select_{many}", f"with_{f}")
    body = d.pick(
        f'return [{x}["name"] for {x} in {many} if {x}["{f}"] {op} {bound}]',
        f'{found} = []\nfor {x} in {many}:\n    if {x}["{f}"] {op} {bound}:\n'
        f'        {found}.append({x}["name"])\nreturn {found}',
    )
    rows = _records(d, f, name=True, top=6)

    def sample(rng: Random) -> tuple[Value, ...]:
        data = rows(rng)
        return data, rng.choice([rng.choice(data)[f], rng.randint(2, 6)])

    return d.single(name, f"{many}, {bound}", body, f"the names with {words} {bound} {f}", sample)


def count_label(d: Draw) -> Piece:
    label, many, x = d.domain.label, d.domain.many, d.pick(d.domain.one, "row", "x")
    n, wanted = d.pick("n", "count", "hits"), d.pick("wanted", label, "target")
    name = d.name(f"count_{label}", f"{many}_in_{label}", f"how_many_{many}")
    clean = d.pick(".lower()", ".strip()", "")
    body = d.pick(
        f'{n} = 0\nfor {x} in {many}:\n    if {x}["{label}"]{clean} == {wanted}:\n'
        f"        {n} += 1\nreturn {n}",
        f'return len([{x} for {x} in {many} if {x}["{label}"]{clean} == {wanted}])',
    )
    labels = d.domain.labels

    def sample(rng: Random) -> tuple[Value, ...]:
        target = rng.choice(labels)
        forms = [target.title(), target] if clean == ".lower()" else [target + " ", target]
        forms = forms if clean else [target]
        rows = [{label: rng.choice([*forms, rng.choice(labels)])} for _ in range(rng.randint(2, 3))]
        return rows, target

    return d.single(name, f"{many}, {wanted}", body, f"how many {many} have that {label}", sample)


def group_totals(d: Draw) -> Piece:
    f, label = d.fields(1)[0], d.domain.label
    many, x = d.domain.many, d.pick(d.domain.one, "row", "x")
    sums, key = d.pick("sums", "totals", "result"), d.pick("key", label)
    name = d.name(f"{f}_per_{label}", f"by_{label}", f"group_{f}")
    body = d.pick(
        f'{sums} = {{}}\nfor {x} in {many}:\n    {key} = {x}["{label}"]\n'
        f'    {sums}[{key}] = {sums}.get({key}, 0) + {x}["{f}"]\nreturn {sums}',
        f'{sums} = {{}}\nfor {x} in {many}:\n    {key} = {x}["{label}"]\n'
        f"    if {key} not in {sums}:\n        {sums}[{key}] = 0\n"
        f'    {sums}[{key}] += {x}["{f}"]\nreturn {sums}',
    )
    rows = _records(d, f, label=True)
    return d.single(name, many, body, f"the {f} summed per {label}", lambda r: (rows(r),))


def best_name(d: Draw) -> Piece:
    f, many, x = d.fields(1)[0], d.domain.many, d.pick(d.domain.one, "row", "x")
    kind, op, call = d.rng.choice([("highest", ">", "max"), ("lowest", "<", "min")])
    best = d.pick("best", "chosen", "top")
    name = d.name(f"{kind}_{f}", f"{kind}_{d.domain.one}", f"pick_{d.domain.one}")
    body = d.pick(
        f'{best} = {many}[0]\nfor {x} in {many}:\n    if {x}["{f}"] {op} {best}["{f}"]:\n'
        f'        {best} = {x}\nreturn {best}["name"]',
        f'return {call}({many}, key=lambda {x}: {x}["{f}"])["name"]',
    )
    rows = _records(d, f, name=True)
    return d.single(name, many, body, f"the name with the {kind} {f}", lambda r: (rows(r),))


def average(d: Draw) -> Piece:
    f, many, x = d.fields(1)[0], d.domain.many, d.pick(d.domain.one, "row", "x")
    acc = d.pick("total", "whole", "acc")
    name = d.name(f"average_{f}", f"mean_{f}", f"typical_{f}")
    body = d.pick(
        f'if not {many}:\n    return 0\n{acc} = sum({x}["{f}"] for {x} in {many})\n'
        f"return {acc} / len({many})",
        f'{acc} = 0\nfor {x} in {many}:\n    {acc} += {x}["{f}"]\n'
        f"return round({acc} / len({many}), 1)",
    )
    rows = _records(d, f)

    def sample(rng: Random) -> tuple[Value, ...]:
        data = rows(rng)
        return (data[:2],) if rng.random() < 0.8 else (data,)

    return d.single(name, many, body, f"the average {f} of the {many}", sample)


def ranked(d: Draw) -> Piece:
    f, many, x = d.fields(1)[0], d.domain.many, d.pick(d.domain.one, "row", "x")
    n, order = d.pick("n", "count", "k"), d.pick("ranked", "ordered", "rows")
    down = d.rng.random() < 0.6
    name = d.name(f"top_{many}", f"first_{many}", f"rank_{many}")
    turn = ", reverse=True" if down else ""
    body = (
        f'{order} = sorted({many}, key=lambda {x}: {x}["{f}"]{turn})\n'
        f'return [{x}["name"] for {x} in {order}[:{n}]]'
    )
    rows = _records(d, f, name=True)
    words = "largest" if down else "smallest"
    return d.single(
        name,
        f"{many}, {n}",
        body,
        f"the {n} names with the {words} {f}, in order",
        lambda r: (rows(r), r.randint(1, 2)),
    )


def index_names(d: Draw) -> Piece:
    f, many, x = d.fields(1)[0], d.domain.many, d.pick(d.domain.one, "row", "x")
    table = d.pick("table", "index", "found")
    name = d.name(f"index_{many}", f"{f}_table", f"lookup_{f}")
    body = d.pick(
        f'{table} = {{}}\nfor {x} in {many}:\n    {table}[{x}["name"]] = {x}["{f}"]\n'
        f"return {table}",
        f'return {{{x}["name"]: {x}["{f}"] for {x} in {many}}}',
    )
    rows = _records(d, f, name=True)
    return d.single(name, many, body, f"the {f} of every name", lambda r: (rows(r),))


def check_rows(d: Draw) -> Piece:
    f, many, x = d.fields(1)[0], d.domain.many, d.pick(d.domain.one, "row", "x")
    word, call = d.rng.choice([("every", "all"), ("any", "any")])
    bound = d.pick("limit", "top", "cap")
    op, words = d.rng.choice(
        [("<=", "at most"), ("<", "below"), (">", "above"), (">=", "at least")]
    )
    name = d.name(f"{call}_{f}_ok", f"check_{f}", f"{many}_ok")
    body = f'return {call}({x}["{f}"] {op} {bound} for {x} in {many})'
    rows = _records(d, f, top=6)

    def sample(rng: Random) -> tuple[Value, ...]:
        data = rows(rng)
        return data, rng.choice([rng.choice(data)[f], rng.randint(2, 6)])

    return d.single(
        name, f"{many}, {bound}", body, f"whether {word} {f} is {words} {bound}", sample
    )


def between(d: Draw) -> Piece:
    f, many, x = d.fields(1)[0], d.domain.many, d.pick(d.domain.one, "row", "x")
    n = d.pick("n", "count", "inside")
    name = d.name(f"count_{f}_between", f"{many}_between", f"within_{f}")
    body = d.pick(
        f'{n} = 0\nfor {x} in {many}:\n    if {x}["{f}"] >= low and {x}["{f}"] <= high:\n'
        f"        {n} += 1\nreturn {n}",
        f'return sum(1 for {x} in {many} if low <= {x}["{f}"] <= high)',
    )
    rows = _records(d, f)

    def sample(rng: Random) -> tuple[Value, ...]:
        data = rows(rng)
        edge = rng.choice(data)[f]
        assert isinstance(edge, int)
        low = edge if rng.random() < 0.5 else max(1, edge - 3)
        return data, low, max(low + 1, edge)

    return d.single(
        name,
        f"{many}, low, high",
        body,
        f"how many {many} have {f} from low to high, both included",
        sample,
    )


def first_match(d: Draw) -> Piece:
    f, many, x = d.fields(1)[0], d.domain.many, d.pick(d.domain.one, "row", "x")
    bound = d.pick("limit", "least", "bound")
    name = d.name(f"first_{f}_over", f"find_{d.domain.one}", f"first_{d.domain.one}")
    body = (
        f'for {x} in {many}:\n    if {x}["{f}"] > {bound}:\n        return {x}["name"]\nreturn None'
    )
    rows = _records(d, f, name=True)
    return d.single(
        name,
        f"{many}, {bound}",
        body,
        f"the first name with {f} over {bound}",
        lambda r: (rows(r), r.randint(1, 8)),
    )


def spread(d: Draw) -> Piece:
    f, many, x = d.fields(1)[0], d.domain.many, d.pick(d.domain.one, "row", "x")
    values = d.pick("values", "found", "all_" + f)
    name = d.name(f"{f}_range", f"{f}_spread", f"{f}_gap")
    body = f'{values} = [{x}["{f}"] for {x} in {many}]\nreturn max({values}) - min({values})'
    rows = _records(d, f)
    return d.single(name, many, body, f"the largest {f} minus the smallest", lambda r: (rows(r),))


def share(d: Draw) -> Piece:
    f, label, many = d.fields(1)[0], d.domain.label, d.domain.many
    x = d.pick(d.domain.one, "row", "x")
    part, whole = d.pick("part", "some"), d.pick("whole", "every")
    name = d.name(f"{f}_share", f"{label}_percent", f"percent_{f}")
    body = (
        f'{part} = sum({x}["{f}"] for {x} in {many} if {x}["{label}"] == {label})\n'
        f'{whole} = sum({x}["{f}"] for {x} in {many})\n'
        f"return 100 * {part} // {whole}"
    )
    rows, labels = _records(d, f, label=True), d.domain.labels
    return d.single(
        name,
        f"{many}, {label}",
        body,
        f"the percentage of {f} in that {label}",
        lambda r: (rows(r), r.choice(labels[:2])),
    )


def changed_copy(d: Draw) -> Piece:
    f, one = d.fields(1)[0], d.domain.one
    new, step = d.pick("new", "copy", "changed"), d.pick("step", "amount", "extra")
    name = d.name(f"raise_{f}", f"add_{f}", f"more_{f}")
    copy = d.pick(f"dict({one})", f"{one}.copy()")
    body = f'{new} = {copy}\n{new}["{f}"] += {step}\nreturn {new}'
    part = d.function(
        name,
        f"{one}, {step}",
        body,
        f"A new {one} with more {f}; no change in place.",
        keep_doc=True,
    )
    word = d.domain.names

    def case(rng: Random) -> Case:
        row = {"name": rng.choice(word), f: rng.randint(1, 9)}
        setup = f"v = {literal(row)}; w = {name}(v, {rng.randint(1, 5)})"
        return Case(rng.choice(["v", "(v, w)"]), setup)

    return Piece((part,), name, f"a changed copy of the {one}", case)


def reduced_price(d: Draw) -> Piece:
    f, many, x = d.fields(1)[0], d.domain.many, d.pick(d.domain.one, "row", "x")
    rate, limit = d.rng.choice([5, 10, 20, 25, 50]), d.rng.choice([10, 12, 15, 20, 30])
    helper = d.name(f"reduced_{f}", "reduced", "after_discount")
    name = d.name(f"bill_{f}", f"final_{f}", f"reduced_{many}")
    value = d.pick("value", "amount", f)
    first = d.function(
        helper,
        value,
        f"if {value} >= {limit}:\n    return {value} - {value} * {rate} // 100\nreturn {value}",
        f"Take off {rate} percent from {limit} on.",
        keep_doc=True,
    )
    second = d.function(
        name,
        many,
        d.pick(
            f'return sum({helper}({x}["{f}"]) for {x} in {many})',
            f'total = 0\nfor {x} in {many}:\n    total += {helper}({x}["{f}"])\nreturn total',
        ),
        f"The sum of the reduced {f}.",
    )
    rng_fields = f

    def sample(rng: Random) -> tuple[Value, ...]:
        return (
            [
                {rng_fields: rng.choice([limit, 2 * limit, rng.randint(1, 50)])}
                for _ in range(rng.randint(1, 3))
            ],
        )

    return Piece(
        (first, second),
        name,
        f"the sum of {f}, where each from {limit} on is reduced by {rate} percent",
        calls(name, sample),
    )


def split_rows(d: Draw) -> Piece:
    f, many, x = d.fields(1)[0], d.domain.many, d.pick(d.domain.one, "row", "x")
    bound = d.pick("limit", "bound", "cut")
    yes, no = d.rng.choice([("high", "low"), ("above", "below"), ("good", "rest")])
    name = d.name(f"split_{many}", f"divide_{many}", f"part_{f}")
    body = (
        f'{yes}, {no} = [], []\nfor {x} in {many}:\n    if {x}["{f}"] >= {bound}:\n'
        f'        {yes}.append({x}["{f}"])\n    else:\n        {no}.append({x}["{f}"])\n'
        f"return {yes}, {no}"
    )
    rows = _records(d, f)

    def sample(rng: Random) -> tuple[Value, ...]:
        data = rows(rng)
        return data, rng.choice([rng.choice(data)[f], rng.randint(2, 8)])

    return d.single(
        name, f"{many}, {bound}", body, f"the {f} values from {bound} on, and the others", sample
    )


def merged_counts(d: Draw) -> Piece:
    many = d.domain.many
    a, b = d.rng.choice([("left", "right"), ("first", "second"), ("old", "new")])
    out = d.pick("merged", "out", "both")
    name = d.name(f"merge_{many}", "merge_counts", f"join_{many}")
    body = (
        f"{out} = dict({a})\nfor key in {b}:\n"
        f"    {out}[key] = {out}.get(key, 0) + {b}[key]\nreturn {out}"
    )
    names = d.domain.names

    def table(rng: Random) -> dict[str, int]:
        return {n: rng.randint(1, 9) for n in rng.sample(names[:3], 2)}

    def case(rng: Random) -> Case:
        one, two = literal(table(rng)), literal(table(rng))
        if rng.random() < 0.3:
            return Case("v", f"v = {one}; {name}(v, {two})")
        return Case(f"{name}({one}, {two})")

    doc = "Add up two tables of counts; neither is changed."
    return Piece(
        (d.function(name, f"{a}, {b}", body, doc, keep_doc=True),),
        name,
        "the counts of both tables added",
        case,
    )


PIECES = (
    total,
    product_total,
    at_least,
    count_label,
    group_totals,
    best_name,
    average,
    ranked,
    index_names,
    check_rows,
    between,
    first_match,
    spread,
    share,
    changed_copy,
    reduced_price,
    split_rows,
    merged_counts,
)
