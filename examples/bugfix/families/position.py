"""Bug families of ranges, slices, indexes and order; knows nothing of projects or tasks."""

from examples.bugfix.families.family import Family, swaps

_OUT = r"((?:[^()]|\([^()]*\))*?)"

FAMILIES = (
    Family(
        "range",
        swaps(
            (rf"range\({_OUT} - 1\)", r"range(\1)"),
            (r"range\(len\((\w+)\)\)", r"range(len(\1) - 1)"),
            (rf"range\({_OUT} \+ 1\)", r"range(\1)"),
            (r"range\(1, (\w+)\)", r"range(1, \1 + 1)"),
            (r"range\(1, ", "range(0, "),
            (r"range\(0, ", "range(1, "),
            (r"range\(1, (len\(\w+\))\)", r"range(1, \1 - 1)"),
            (r"range\((\w+)\)", r"range(\1 - 1)"),
            (r"range\((\w+)\)", r"range(1, \1)"),
            (r"range\(len\((\w+)\) - (\w+)\)", r"range(len(\1) - \2 + 1)"),
        ),
        ("the range is off by one", "the range covers the wrong numbers"),
    ),
    Family(
        "slice",
        swaps(
            (r"\[:(\w+)\]", r"[:\1 - 1]"),
            (r"\[:(\w+) - 1\]", r"[:\1]"),
            (r"\[:(\w+)\]", r"[:\1 + 1]"),
            (r"\[:(\w+) \+ 1\]", r"[:\1]"),
            (r"\[(\w+):\]", r"[\1 + 1:]"),
            (r"\[(\w+) \+ 1:\]", r"[\1:]"),
            (r"\[-(\w+):\]", r"[\1:]"),
            (r"\[(\w+):\]", r"[-\1:]"),
            (r"\[-(\w+):\]", r"[:\1]"),
            (r"\[:(\w+)\]", r"[-\1:]"),
            (r"\[i:i \+ (\w+)\]", r"[i:\1]"),
            (r"\[i:(\w+)\]", r"[i:i + \1]"),
            (r"\[1:-1\]", "[1:]"),
            (r"\[1:-1\]", "[:-1]"),
            (r"\[1:\]", "[1:-1]"),
            (r"\[:-1\]", "[1:-1]"),
            (r"\[::-1\]", "[:-1]"),
            (r"\[:-1\]", "[::-1]"),
        ),
        ("the slice has wrong bounds", "the slice is wrong", "it cuts at the wrong place"),
    ),
    Family(
        "index",
        swaps(
            (r"\[0\]", "[-1]"),
            (r"\[-1\]", "[0]"),
            (r"\[0\]", "[1]"),
            (r"\[1\]", "[0]"),
            (r"\[-2\]", "[-1]"),
            (r"\[1\]", "[-1]"),
            (r"\[(\w+) \+ 1\]", r"[\1]"),
            (r"\[(\w+) - 1\]", r"[\1]"),
            (r"(?<=\w)\[(i|k|at|mid|half)\]", r"[\1 - 1]"),
            (r"pop\(0\)", "pop()"),
            (r"pop\(\)", "pop(0)"),
            (r"\[-1\]", "[-2]"),
            (r"\[0\](?=\[\")", "[-1]"),
        ),
        ("the wrong index", "it takes the wrong element"),
    ),
    Family(
        "order",
        swaps(
            (r", reverse=True", ""),
            (r"\(reverse=True\)", "()"),
            (r"(sorted\((?:[^()]|\([^()]*\))+)\)", r"\1, reverse=True)"),
            (r"\.sort\(\)", ".sort(reverse=True)"),
            (r"\[::-1\]", ""),
        ),
        ("the order is reversed", "it sorts the wrong way"),
    ),
)
