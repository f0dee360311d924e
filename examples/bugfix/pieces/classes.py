"""Pieces that are small classes; knows nothing of bugs."""

from random import Random

from examples.bugfix.pieces.piece import Case, Draw, Part, Piece, numbers


def _class(name: str, *methods: str) -> Part:
    lines = [f"class {name}:"]
    for method in methods:
        lines += ["    " + line for line in method.strip("\n").split("\n")]
    return Part(name, "\n".join(lines))


def account(d: Draw) -> Piece:
    cls = d.name("Account", d.domain.holder, "Purse")
    left, n = d.pick("balance", "amount", "left"), d.pick("n", "value", "sum_")
    put, take = d.rng.choice([("deposit", "withdraw"), ("add", "take"), ("put", "spend")])
    part = _class(
        cls,
        f"def __init__(self, {left}):\n    self.{left} = {left}",
        f"def {put}(self, {n}):\n    self.{left} += {n}\n    return self.{left}",
        f"def {take}(self, {n}):\n    if {n} <= self.{left}:\n        self.{left} -= {n}\n"
        f"    return self.{left}",
    )

    def case(rng: Random) -> Case:
        start = rng.randint(3, 20)
        verb = rng.choice([put, take, take])
        n = rng.choice([start, rng.randint(1, 25)])
        return Case(f"{cls}({start}).{verb}({n})")

    return Piece((part,), cls, f"the {left} after each step, never below 0", case)


def tally(d: Draw) -> Piece:
    cls = d.name("Tally", d.domain.holder, "Stats")
    xs = d.pick("values", "data", d.domain.many)
    mean, top = d.pick("mean", "average"), d.pick("highest", "top")
    part = _class(
        cls,
        f"def __init__(self, {xs}):\n    self.{xs} = list({xs})",
        f"def add(self, value):\n    self.{xs}.append(value)",
        f"def {mean}(self):\n    return sum(self.{xs}) / len(self.{xs})",
        f"def {top}(self):\n    return max(self.{xs})",
    )

    def case(rng: Random) -> Case:
        data = numbers(rng, 2, 2) if rng.random() < 0.7 else numbers(rng, 4, 4)
        if rng.random() < 0.3:
            return Case(
                f"t.{rng.choice([mean, top])}()",
                f"t = {cls}({data}); t.add({rng.randint(1, 20)})"
                + f"; t.add({rng.randint(1, 20)})",
            )
        if rng.random() < 0.3:
            return Case("v", f"v = {data}; {cls}(v).add({rng.randint(1, 9)})")
        return Case(f"{cls}({data}).{rng.choice([mean, top])}()")

    return Piece((part,), cls, f"the {mean} and the {top} of its {xs}", case)


def queue(d: Draw) -> Piece:
    cls = d.name("Queue", "Line", d.domain.holder)
    items, size = d.pick("items", "waiting", d.domain.many), d.pick("size", "room", "limit")
    push, pop = d.rng.choice([("push", "pop"), ("join", "serve"), ("put", "get")])
    part = _class(
        cls,
        f"def __init__(self, {size}):\n    self.{size} = {size}\n    self.{items} = []",
        f"def {push}(self, x):\n    if len(self.{items}) >= self.{size}:\n        return False\n"
        f"    self.{items}.append(x)\n    return True",
        f"def {pop}(self):\n    return self.{items}.pop(0)",
    )

    def case(rng: Random) -> Case:
        size = rng.randint(2, 3)
        adds = "; ".join(f"q.{push}({rng.randint(1, 9)})" for _ in range(rng.choice([size, 2])))
        last = f"q.{push}({rng.randint(1, 9)})" if rng.random() < 0.4 else f"q.{pop}()"
        if rng.random() < 0.2:
            last = f"q.{items}"
        return Case(last, f"q = {cls}({size}); {adds}")

    return Piece((part,), cls, f"a queue, first in first out, of at most {size}", case)


def stock(d: Draw) -> Piece:
    cls = d.name("Stock", d.domain.holder, "Counts")
    have = d.pick("have", "counts", "table")
    part = _class(
        cls,
        f"def __init__(self):\n    self.{have} = {{}}",
        f"def add(self, name, n):\n    self.{have}[name] = self.{have}.get(name, 0) + n",
        f"def remove(self, name, n):\n    left = self.{have}.get(name, 0) - n\n"
        f"    self.{have}[name] = max(0, left)",
        f"def total(self):\n    return sum(self.{have}.values())",
    )
    names = d.domain.names

    def case(rng: Random) -> Case:
        steps = [
            f's.add("{rng.choice(names[:2])}", {rng.randint(2, 9)})'
            for _ in range(rng.randint(1, 2))
        ]
        if rng.random() < 0.6:
            steps.append(f's.remove("{names[0]}", {rng.randint(1, 9)})')
        return Case(rng.choice([f"s.{have}", "s.total()"]), f"s = {cls}(); {'; '.join(steps)}")

    return Piece((part,), cls, "the count of each name, never below 0, and the total", case)


def clock(d: Draw) -> Piece:
    cls = d.name("Clock", "Timer", "Shift")
    h, m = d.rng.choice([("hours", "minutes"), ("h", "m")])
    part = _class(
        cls,
        f"def __init__(self, {h}, {m}):\n    self.{h} = {h}\n    self.{m} = {m}",
        f"def later(self, {m}):\n    total = self.{h} * 60 + self.{m} + {m}\n"
        f"    return {cls}(total // 60 % 24, total % 60)",
        f'def text(self):\n    return f"{{self.{h}:02d}}:{{self.{m}:02d}}"',
    )

    def case(rng: Random) -> Case:
        a, b = rng.randint(0, 23), rng.choice([0, 15, 30, 45])
        return Case(f"{cls}({a}, {b}).later({rng.choice([15, 30, 50, 90, 130])}).text()")

    return Piece((part,), cls, "a time of day; later gives the time so many minutes on", case)


def rectangle(d: Draw) -> Piece:
    cls = d.name("Rect", "Box", "Plot")
    w, h = d.rng.choice([("width", "height"), ("w", "h"), ("wide", "high")])
    part = _class(
        cls,
        f"def __init__(self, {w}, {h}):\n    self.{w} = {w}\n    self.{h} = {h}",
        f"def area(self):\n    return self.{w} * self.{h}",
        f"def edge(self):\n    return 2 * (self.{w} + self.{h})",
        f"def holds(self, x, y):\n    return 0 <= x < self.{w} and 0 <= y < self.{h}",
    )

    def case(rng: Random) -> Case:
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        x, y = rng.choice([a, a - 1, 0]), rng.choice([b, b - 1, 0])
        method = rng.choice(["area()", "edge()", f"holds({x}, {y})", f"holds({x}, {y})"])
        return Case(f"{cls}({a}, {b}).{method}")

    return Piece(
        (part,), cls, f"area, edge length, and whether it holds x below {w} and y below {h}", case
    )


def grid(d: Draw) -> Piece:
    cls = d.name("Grid", "Board", "Seats")
    rows, cols = d.rng.choice([("rows", "cols"), ("height", "width")])
    part = _class(
        cls,
        f"def __init__(self, {rows}, {cols}):\n    self.{rows} = {rows}\n    self.{cols} = {cols}",
        f"def index(self, row, col):\n    return row * self.{cols} + col",
        f"def place(self, index):\n    return index // self.{cols}, index % self.{cols}",
        f"def size(self):\n    return self.{rows} * self.{cols}",
    )

    def case(rng: Random) -> Case:
        a, b = rng.randint(2, 6), rng.randint(2, 6)
        method = rng.choice(
            [
                f"index({rng.randint(0, a - 1)}, {rng.randint(0, b - 1)})",
                f"place({rng.randint(1, a * b - 1)})",
                "size()",
            ]
        )
        return Case(f"{cls}({a}, {b}).{method}")

    return Piece((part,), cls, f"cells numbered along the {rows}, from 0", case)


def meter(d: Draw) -> Piece:
    cls = d.name("Meter", "Score", "Level")
    value, step = d.pick("value", "level", "points"), d.pick("step", "unit")
    top = d.rng.choice([10, 20, 50])
    up, down = d.rng.choice([("up", "down"), ("gain", "lose")])
    part = _class(
        cls,
        f"TOP = {top}\n",
        f"def __init__(self, {step}):\n    self.{step} = {step}\n    self.{value} = 0",
        f"def {up}(self, n):\n    self.{value} += n * self.{step}\n"
        f"    self.{value} = min(self.{value}, self.TOP)\n    return self.{value}",
        f"def {down}(self, n):\n    self.{value} -= n * self.{step}\n"
        f"    self.{value} = max(self.{value}, 0)\n    return self.{value}",
    )

    def case(rng: Random) -> Case:
        step = rng.randint(2, 4)
        last = rng.choice([f"m.{up}({rng.randint(1, 9)})", f"m.{down}({rng.randint(1, 3)})"])
        return Case(last, f"m = {cls}({step}); m.{up}({rng.randint(1, 4)})")

    return Piece((part,), cls, f"a {value} from 0 to {top}, moved in steps", case)


PIECES = (account, tally, queue, stock, clock, rectangle, grid, meter)
