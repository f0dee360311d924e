"""Pieces that work on lists of numbers; knows nothing of bugs."""

from random import Random

from examples.bugfix.pieces.piece import Case, Draw, Piece, Value, calls, literal, numbers


def _list_name(d: Draw) -> str:
    return d.pick("values", "xs", "data", d.domain.numbers[0] + "s", d.domain.many)


def running(d: Draw) -> Piece:
    xs, x = _list_name(d), d.pick("x", "value", "n")
    out, acc = d.pick("out", "sums", "result"), d.pick("total", "acc", "so_far")
    name = d.name("running_total", "prefix_sums", "cumulate")
    body = (
        f"{out} = []\n{acc} = 0\nfor {x} in {xs}:\n    {acc} += {x}\n"
        f"    {out}.append({acc})\nreturn {out}"
    )
    return d.single(name, xs, body, f"the running totals of {xs}", lambda r: (numbers(r),))


def steps(d: Draw) -> Piece:
    xs, i = _list_name(d), d.pick("i", "k", "at")
    name = d.name("steps", "changes", "deltas", "increments")
    body = d.pick(
        f"return [{xs}[{i} + 1] - {xs}[{i}] for {i} in range(len({xs}) - 1)]",
        f"out = []\nfor {i} in range(1, len({xs})):\n"
        f"    out.append({xs}[{i}] - {xs}[{i} - 1])\nreturn out",
    )
    return d.single(
        name, xs, body, f"the change from each of {xs} to the next", lambda r: (numbers(r, 3),)
    )


def window(d: Draw) -> Piece:
    xs, k = _list_name(d), d.pick("k", "size", "width")
    name = d.name("window_sums", "moving_sum", "sliding_totals")
    body = d.pick(
        f"return [sum({xs}[i:i + {k}]) for i in range(len({xs}) - {k} + 1)]",
        f"out = []\nfor i in range(len({xs}) - {k} + 1):\n    part = {xs}[i:i + {k}]\n"
        f"    out.append(sum(part))\nreturn out",
    )
    return d.single(
        name,
        f"{xs}, {k}",
        body,
        f"the sums of every {k} neighbours",
        lambda r: (numbers(r, 3), r.randint(2, 3)),
    )


def count_above(d: Draw) -> Piece:
    xs, x, n = _list_name(d), d.pick("x", "value", "n"), d.pick("count", "hits", "above")
    bound = d.pick("limit", "bound", "level")
    name = d.name("count_above", "how_many_above", "over_limit")
    body = d.pick(
        f"{n} = 0\nfor {x} in {xs}:\n    if {x} > {bound}:\n        {n} += 1\nreturn {n}",
        f"return sum(1 for {x} in {xs} if {x} > {bound})",
    )

    def sample(rng: Random) -> tuple[Value, ...]:
        data = numbers(rng)
        return data, rng.choice(data)

    return d.single(name, f"{xs}, {bound}", body, f"how many {xs} are above {bound}", sample)


def is_sorted(d: Draw) -> Piece:
    xs, i = _list_name(d), d.pick("i", "k", "at")
    name = d.name("is_sorted", "in_order", "never_falls")
    body = d.pick(
        f"return all({xs}[{i}] <= {xs}[{i} + 1] for {i} in range(len({xs}) - 1))",
        f"for {i} in range(len({xs}) - 1):\n    if {xs}[{i}] > {xs}[{i} + 1]:\n"
        f"        return False\nreturn True",
    )

    def sample(rng: Random) -> tuple[Value, ...]:
        data = numbers(rng, 2, 4, 6)
        data = sorted(data) if rng.random() < 0.6 else data
        return ([*data, data[-1]] if rng.random() < 0.4 else data,)

    return d.single(name, xs, body, f"whether {xs} never get smaller", sample)


def longest_run(d: Draw) -> Piece:
    xs, best, run = _list_name(d), d.pick("best", "longest"), d.pick("run", "length", "now")
    name = d.name("longest_run", "best_streak", "streak")
    bound = d.pick("limit", "level")
    body = (
        f"{best} = 0\n{run} = 0\nfor x in {xs}:\n    if x >= {bound}:\n        {run} += 1\n"
        f"        {best} = max({best}, {run})\n    else:\n        {run} = 0\nreturn {best}"
    )

    def sample(rng: Random) -> tuple[Value, ...]:
        data = numbers(rng, 3, 6, 6)
        return data, rng.choice(data)

    return d.single(
        name,
        f"{xs}, {bound}",
        body,
        f"the length of the longest run of {xs} of at least {bound}",
        sample,
    )


def median(d: Draw) -> Piece:
    xs, order, mid = _list_name(d), d.pick("ordered", "ranked", "s"), d.pick("mid", "half")
    name = d.name("median", "middle_value", "midpoint")
    body = (
        f"{order} = sorted({xs})\n{mid} = len({order}) // 2\n"
        f"if len({order}) % 2 == 1:\n    return {order}[{mid}]\n"
        f"return ({order}[{mid} - 1] + {order}[{mid}]) / 2"
    )
    return d.single(name, xs, body, f"the median of {xs}", lambda r: (numbers(r, 3, 5),))


def second_best(d: Draw) -> Piece:
    xs, order = _list_name(d), d.pick("ordered", "ranked", "unique")
    low = d.rng.random() < 0.5
    word = "smallest" if low else "largest"
    name = d.name(f"second_{word}", "runner_up", "second_best")
    turn, at = d.rng.choice(
        [("", 1), (", reverse=True", -2)] if low else [("", -2), (", reverse=True", 1)]
    )
    body = f"{order} = sorted(set({xs}){turn})\nreturn {order}[{at}]"
    return d.single(
        name,
        xs,
        body,
        f"the second {word} of {xs}",
        lambda r: (r.sample(range(1, 20), r.randint(3, 4)),),
    )


def rotate(d: Draw) -> Piece:
    xs, k = _list_name(d), d.pick("k", "n", "by")
    name = d.name("rotate", f"rotate_{d.domain.many}", "shift_left")
    body = d.pick(
        f"return {xs}[{k}:] + {xs}[:{k}]",
        f"head = {xs}[:{k}]\ntail = {xs}[{k}:]\nreturn tail + head",
    )
    return d.single(
        name,
        f"{xs}, {k}",
        body,
        f"{xs} with the first {k} moved to the end",
        lambda r: (numbers(r, 3), r.randint(1, 2)),
    )


def chunks(d: Draw) -> Piece:
    xs, k = _list_name(d), d.pick("size", "k", "n")
    name = d.name("chunks", f"pages_of_{d.domain.many}", "batches")
    body = d.pick(
        f"return [{xs}[i:i + {k}] for i in range(0, len({xs}), {k})]",
        f"out = []\nfor i in range(0, len({xs}), {k}):\n    out.append({xs}[i:i + {k}])\n"
        f"return out",
    )
    return d.single(
        name,
        f"{xs}, {k}",
        body,
        f"{xs} cut into lists of {k}",
        lambda r: (numbers(r, 3, 6), r.randint(2, 3)),
    )


def dot(d: Draw) -> Piece:
    f, g = d.fields(2)
    a, b = f"{f}s", f"{g}s"
    name = d.name("dot", f"combine_{f}", "weighted_sum")
    body = d.pick(
        f"total = 0\nfor a, b in zip({a}, {b}):\n    total += a * b\nreturn total",
        f"return sum({a}[i] * {b}[i] for i in range(len({a})))",
    )

    def sample(rng: Random) -> tuple[Value, ...]:
        size = rng.randint(2, 3)
        return numbers(rng, size, size), numbers(rng, size, size, 5)

    return d.single(name, f"{a}, {b}", body, f"the sum of {a} times {b}", sample)


def unique(d: Draw) -> Piece:
    xs, x = _list_name(d), d.pick("x", "value", "n")
    seen = d.pick("seen", "out", "kept")
    name = d.name("unique", "drop_repeats", "distinct")
    body = (
        f"{seen} = []\nfor {x} in {xs}:\n    if {x} not in {seen}:\n"
        f"        {seen}.append({x})\nreturn {seen}"
    )
    return d.single(name, xs, body, f"{xs} without repeats", lambda r: (numbers(r, 3, 5, 4),))


def capped(d: Draw) -> Piece:
    xs, x = _list_name(d), d.pick("x", "value", "n")
    kind, word = d.rng.choice([("min", "above"), ("max", "below")])
    bound = d.pick("limit", "bound")
    name = d.name("capped", f"bound_{d.domain.many}", "cut_off")
    body = d.pick(
        f"return [{kind}({x}, {bound}) for {x} in {xs}]",
        f"out = []\nfor {x} in {xs}:\n    out.append({kind}({x}, {bound}))\nreturn out",
    )
    return d.single(
        name,
        f"{xs}, {bound}",
        body,
        f"{xs} with those {word} {bound} replaced by {bound}",
        lambda r: (numbers(r, 2, 4), r.randint(3, 8)),
    )


def shifted(d: Draw) -> Piece:
    xs, x = _list_name(d), d.pick("x", "value", "n")
    low = d.pick("low", "base", "least")
    name = d.name("shifted", "from_zero", "rebase")
    body = f"{low} = min({xs})\nreturn [{x} - {low} for {x} in {xs}]"
    return d.single(
        name,
        xs,
        body,
        f"{xs} moved so that the smallest is 0",
        lambda r: (numbers(r, 2, 4, 12, 2),),
    )


def sorted_copy(d: Draw) -> Piece:
    xs = _list_name(d)
    out = d.pick("out", "ordered", "result")
    down = d.rng.random() < 0.5
    turn, word = ("reverse=True", "largest first") if down else ("", "smallest first")
    name = d.name("sorted_copy", f"order_{d.domain.many}", "arrange")
    copy = d.pick(f"list({xs})", f"{xs}.copy()", f"{xs}[:]")
    body = f"{out} = {copy}\n{out}.sort({turn})\nreturn {out}"
    part = d.function(name, xs, body, f"A sorted copy, {word}.", keep_doc=True)

    def case(rng: Random) -> Case:
        data = literal(rng.sample(range(1, 15), rng.randint(2, 4)))
        if rng.random() < 0.5:
            return Case("v", f"v = {data}; {name}(v)")
        return Case(f"{name}({data})")

    return Piece((part,), name, f"a sorted copy of {xs}, {word}", case)


def appended(d: Draw) -> Piece:
    xs, x = _list_name(d), d.pick("extra", "value", "new")
    out = d.pick("out", "longer", "result")
    name = d.name("with_extra", f"extend_{d.domain.many}", "appended")
    front = d.rng.random() < 0.4
    add = f"{out}.insert(0, {x})" if front else f"{out}.append({x})"
    where = "front" if front else "end"
    body = f"{out} = {d.pick(f'list({xs})', f'{xs}.copy()')}\n{add}\nreturn {out}"
    part = d.function(name, f"{xs}, {x}", body, f"A copy with {x} at the {where}.", keep_doc=True)

    def case(rng: Random) -> Case:
        data, extra = literal(numbers(rng, 2, 3)), rng.randint(20, 30)
        if rng.random() < 0.5:
            return Case("v", f"v = {data}; {name}(v, {extra})")
        return Case(f"{name}({data}, {extra})")

    return Piece((part,), name, f"a copy of {xs} with {x} at the {where}", case)


def trimmed(d: Draw) -> Piece:
    xs = _list_name(d)
    name = d.name("trimmed_mean", "fair_average", "jury_score")
    inner = d.pick("inner", "kept", "middle")
    body = f"{inner} = sorted({xs})[1:-1]\nreturn sum({inner}) // len({inner})"
    return d.single(
        name,
        xs,
        body,
        f"the whole average of {xs} without smallest and largest",
        lambda r: (numbers(r, 3, 5, 20),),
    )


def last_items(d: Draw) -> Piece:
    xs, k = _list_name(d), d.pick("n", "k", "count")
    name = d.name("latest", f"last_{d.domain.many}", "newest")
    back = d.rng.random() < 0.5
    body = f"return {xs}[-{k}:]" + ("[::-1]" if back else "")
    words = ", newest first" if back else ""
    return d.single(
        name,
        f"{xs}, {k}",
        body,
        f"the last {k} of {xs}{words}",
        lambda r: (numbers(r, 3, 5), r.randint(1, 2)),
    )


def score_total(d: Draw) -> Piece:
    xs = _list_name(d)
    helper = d.name("bonus", "extra_points", "premium")
    name = d.name("total_with_bonus", "final_sum", "full_total")
    n, rate = d.pick("n", "count"), d.rng.choice([2, 3, 5])
    least = d.rng.randint(2, 3)
    first = d.function(
        helper,
        f"{n}, rate",
        f"if {n} > {least}:\n    return ({n} - {least}) * rate\nreturn 0",
        f"rate for each over {least}.",
        keep_doc=True,
    )
    second = d.function(
        name,
        xs,
        f"total = sum({xs})\nreturn total + {helper}(len({xs}), {rate})",
        "The sum with the bonus.",
    )
    return Piece(
        (first, second),
        name,
        f"the sum of {xs} plus {rate} for each element over {least}",
        calls(name, lambda r: (numbers(r, 2, 5),)),
    )


PIECES = (
    running,
    steps,
    window,
    count_above,
    is_sorted,
    longest_run,
    median,
    second_best,
    rotate,
    chunks,
    dot,
    unique,
    capped,
    shifted,
    sorted_copy,
    appended,
    trimmed,
    last_items,
    score_total,
)
