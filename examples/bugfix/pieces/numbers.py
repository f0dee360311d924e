"""Pieces that compute with single numbers; knows nothing of bugs."""

from random import Random

from examples.bugfix.pieces.piece import Draw, Part, Piece, Value, calls


def clamp(d: Draw) -> Piece:
    value = d.pick("value", "x", d.domain.numbers[0])
    name = d.name("clamp", f"limit_{d.domain.numbers[0]}", "keep_inside")
    body = d.pick(
        f"return max(low, min({value}, high))",
        f"if {value} < low:\n    return low\nif {value} > high:\n    return high\nreturn {value}",
    )
    return d.single(
        name,
        f"{value}, low, high",
        body,
        f"{value}, but not outside low to high",
        lambda r: (r.randint(0, 20), r.randint(3, 7), r.randint(8, 14)),
    )


def ceil_div(d: Draw) -> Piece:
    many, size = d.domain.many, d.pick("size", "per_box", "room")
    name = d.name("boxes_needed", f"boxes_for_{many}", "groups_needed")
    body = d.pick(
        f"return ({many} + {size} - 1) // {size}",
        f"full = {many} // {size}\nif {many} % {size} > 0:\n    full += 1\nreturn full",
    )
    return d.single(
        name,
        f"{many}, {size}",
        body,
        f"how many groups of {size} hold all {many}",
        lambda r: (r.choice([r.randint(1, 30), 4 * r.randint(1, 6)]), r.choice([2, 4, 5, 6])),
    )


def digit_sum(d: Draw) -> Piece:
    n, acc = d.pick("n", "number", "code"), d.pick("total", "acc", "out")
    name = d.name("digit_sum", f"{d.domain.one}_checksum", "add_digits")
    body = d.pick(
        f"{acc} = 0\nwhile {n} > 0:\n    {acc} += {n} % 10\n    {n} = {n} // 10\nreturn {acc}",
        f"{acc} = 0\nfor digit in str({n}):\n    {acc} += int(digit)\nreturn {acc}",
    )
    return d.single(name, n, body, "the sum of the digits", lambda r: (r.randint(11, 9999),))


def tier(d: Draw) -> Piece:
    value = d.pick("value", *d.domain.numbers)
    a = d.rng.choice([3, 4, 5, 6, 8])
    b = a + d.rng.choice([3, 4, 5, 10])
    words = d.rng.choice(
        [
            ("low", "mid", "high"),
            ("small", "medium", "large"),
            ("cheap", "fair", "dear"),
            ("C", "B", "A"),
        ]
    )
    name = d.name(f"{value}_class", f"grade_{value}", f"rate_{value}", f"{value}_level")
    body = d.pick(
        f'if {value} < {a}:\n    return "{words[0]}"\nif {value} < {b}:\n'
        f'    return "{words[1]}"\nreturn "{words[2]}"',
        f'if {value} >= {b}:\n    return "{words[2]}"\nelif {value} >= {a}:\n'
        f'    return "{words[1]}"\nreturn "{words[0]}"',
    )
    purpose = f"{words[0]} below {a}, {words[1]} below {b}, else {words[2]}"
    return d.single(
        name,
        value,
        body,
        purpose,
        lambda r: (r.choice([a, b, a - 1, b - 1, r.randint(1, b + 4)]),),
        keep_doc=True,
    )


def fee(d: Draw) -> Piece:
    value = d.pick(*d.domain.numbers)
    base, per, free = d.rng.randint(2, 9), d.rng.randint(2, 5), d.rng.randint(2, 6)
    name = d.name(f"{value}_fee", f"charge_{value}", f"cost_of_{value}")
    c1, c2 = d.name("BASE", "START", "FIXED"), d.name("FREE", "LIMIT", "PART")
    first = _constant(c1, base)
    second = _constant(c2, free)
    extra = d.pick("extra", "over", "paid")
    body = d.pick(
        f"{extra} = max(0, {value} - {c2})\nreturn {c1} + {extra} * {per}",
        f"if {value} <= {c2}:\n    return {c1}\n{extra} = {value} - {c2}\n"
        f"return {c1} + {extra} * {per}",
    )
    doc = f"{base}, and {per} for each {value} over {free}."
    entry = d.function(name, value, body, doc, keep_doc=True)
    return Piece(
        (first, second, entry),
        name,
        f"{base}, and {per} for each {value} over {free}",
        calls(name, lambda r: (r.choice([free, free + 1, r.randint(1, 15)]),)),
    )


def _constant(name: str, value: int) -> Part:
    return Part(name, f"{name} = {value}")


def minutes(d: Draw) -> Piece:
    name = d.name("clock_text", "as_clock", "show_minutes")
    t = d.pick("minutes", "time", "t")
    body = d.pick(
        f'hours = {t} // 60\nrest = {t} % 60\nreturn f"{{hours}}:{{rest:02d}}"',
        f'hours, rest = divmod({t}, 60)\nreturn f"{{hours}}h {{rest}}m"',
    )
    return d.single(
        name,
        t,
        body,
        f"{t} as hours and minutes",
        lambda r: (r.choice([60, 90, 125, r.randint(10, 400)]),),
    )


def overlap(d: Draw) -> Piece:
    a, b = d.rng.choice([("a", "b"), ("first", "second"), ("one", "two")])
    name = d.name("overlap", f"{d.domain.many}_overlap", "shared_length")
    body = d.pick(
        f"start = max({a}[0], {b}[0])\nend = min({a}[1], {b}[1])\nreturn max(0, end - start)",
        f"start = max({a}[0], {b}[0])\nend = min({a}[1], {b}[1])\nif end < start:\n"
        f"    return 0\nreturn end - start",
    )

    def sample(rng: Random) -> tuple[Value, ...]:
        x, y = rng.randint(0, 8), rng.randint(0, 8)
        return (x, x + rng.randint(2, 6)), (y, y + rng.randint(2, 6))

    return d.single(name, f"{a}, {b}", body, f"how long the spans {a} and {b} overlap", sample)


def distance(d: Draw) -> Piece:
    a, b = d.rng.choice([("a", "b"), ("p", "q"), ("here", "there")])
    name = d.name("distance", "grid_distance", "steps_between")
    body = d.pick(
        f"return abs({a}[0] - {b}[0]) + abs({a}[1] - {b}[1])",
        f"dx = abs({a}[0] - {b}[0])\ndy = abs({a}[1] - {b}[1])\nreturn dx + dy",
    )

    def sample(rng: Random) -> tuple[Value, ...]:
        return tuple((rng.randint(0, 9), rng.randint(0, 9)) for _ in range(2))

    return d.single(name, f"{a}, {b}", body, f"the steps between {a} and {b} on a grid", sample)


def difference(d: Draw) -> Piece:
    f = d.pick(*d.domain.numbers)
    bound = d.rng.randint(2, 6)
    helper = d.name(f"{f}_gap", "gap", "difference")
    name = d.name(f"close_{f}", f"near_{f}", f"same_{f}")
    first = d.function(helper, "a, b", "return abs(a - b)", "How far a is from b.")
    op, word = d.rng.choice([("<=", "at most"), ("<", "less than")])
    second = d.function(
        name,
        "a, b",
        f"return {helper}(a, b) {op} {bound}",
        f"Whether a and b differ by {word} {bound}.",
        keep_doc=True,
    )
    purpose = f"whether a and b differ by {word} {bound}"

    def sample(rng: Random) -> tuple[Value, ...]:
        a = rng.randint(8, 20)
        return a, a + rng.choice([-1, 1]) * rng.choice([bound, bound - 1, bound + 1, 7])

    return Piece((first, second), name, purpose, calls(name, sample))


def ticket(d: Draw) -> Piece:
    young, old = d.rng.choice([5, 6, 12, 14]), d.rng.choice([60, 65, 70])
    name = d.name("pays_half", "is_reduced", "half_fare")
    body = d.pick(
        f"return age < {young} or age >= {old}",
        f"if age < {young} or age >= {old}:\n    return True\nreturn False",
    )
    return d.single(
        name,
        "age",
        body,
        f"whether age is below {young} or at least {old}",
        lambda r: (r.choice([young, old, young - 1, old - 1, r.randint(1, 90)]),),
        keep_doc=True,
    )


def share_out(d: Draw) -> Piece:
    many = d.domain.many
    people = d.pick("people", "groups", "places")
    helper = d.name("left_over", "remainder", "rest_of")
    name = d.name(f"share_{many}", f"deal_{many}", f"spread_{many}")
    first = d.function(
        helper, f"{many}, {people}", f"return {many} % {people}", f"What remains of the {many}."
    )
    second = d.function(
        name,
        f"{many}, {people}",
        f"each = {many} // {people}\nrest = {helper}({many}, {people})\nreturn each, rest",
        f"The {many} for each, and the rest.",
    )
    return Piece(
        (first, second),
        name,
        f"how many {many} each gets, and how many remain",
        calls(name, lambda r: (r.randint(5, 40), r.randint(2, 7))),
    )


def compound(d: Draw) -> Piece:
    value = d.pick("value", "amount", d.domain.numbers[0])
    years, rate = d.pick("years", "rounds", "times"), d.pick("rate", "percent")
    name = d.name(f"grow_{value}", "after_growth", "growth")
    body = f"for _ in range({years}):\n    {value} += {value} * {rate} // 100\nreturn {value}"
    return d.single(
        name,
        f"{value}, {rate}, {years}",
        body,
        f"{value} after growing by {rate} percent, {years} times",
        lambda r: (100 * r.randint(1, 9), r.choice([5, 10, 20]), r.randint(1, 3)),
    )


def power_sum(d: Draw) -> Piece:
    n, acc = d.pick("n", "last", "end"), d.pick("total", "acc", "out")
    name = d.name("sum_squares", "sum_up_to", "square_total")
    square = d.rng.random() < 0.5
    i = d.pick("i", "k", "step")
    term = f"{i} * {i}" if square else i
    body = d.pick(
        f"{acc} = 0\nfor {i} in range(1, {n} + 1):\n    {acc} += {term}\nreturn {acc}",
        f"return sum({term} for {i} in range(1, {n} + 1))",
    )
    words = "squares" if square else "numbers"
    return d.single(
        name, n, body, f"the sum of the {words} from 1 to {n}", lambda r: (r.randint(2, 9),)
    )


def factor_count(d: Draw) -> Piece:
    n, k = d.pick("n", "last", "end"), d.pick("k", "step", "base")
    name = d.name("multiples", "count_multiples", "hits_up_to")
    body = d.pick(
        f"count = 0\nfor i in range(1, {n} + 1):\n    if i % {k} == 0:\n        count += 1\n"
        f"return count",
        f"return [i for i in range(1, {n} + 1) if i % {k} == 0]",
    )
    return d.single(
        name,
        f"{n}, {k}",
        body,
        f"the multiples of {k} from 1 to {n}",
        lambda r: (r.choice([6, 8, 9, 10, 12]), r.choice([2, 3, 4])),
    )


def product(d: Draw) -> Piece:
    xs, x = d.pick("values", "factors", d.domain.numbers[0] + "_list"), d.pick("x", "value", "f")
    acc = d.pick("result", "out", "acc")
    name = d.name("product", "multiply_all", f"{d.domain.numbers[0]}_product")
    body = f"{acc} = 1\nfor {x} in {xs}:\n    {acc} *= {x}\nreturn {acc}"
    return d.single(
        name,
        xs,
        body,
        f"all {xs} multiplied",
        lambda r: ([r.randint(2, 6) for _ in range(r.randint(2, 4))],),
    )


PIECES = (
    clamp,
    ceil_div,
    digit_sum,
    tier,
    fee,
    minutes,
    overlap,
    distance,
    difference,
    ticket,
    share_out,
    compound,
    power_sum,
    factor_count,
    product,
)
