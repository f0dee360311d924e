"""Bug families of conditions; knows nothing of projects or tasks."""

from examples.bugfix.families.family import Family, swaps

FAMILIES = (
    Family(
        "boundary",
        swaps((r" < ", " <= "), (r" <= ", " < "), (r" > ", " >= "), (r" >= ", " > ")),
        (
            "the bound itself is treated wrongly",
            "the comparison is off at the bound",
            "wrong boundary",
        ),
    ),
    Family(
        "direction",
        swaps((r" < ", " > "), (r" > ", " < "), (r" <= ", " >= "), (r" >= ", " <= ")),
        ("the comparison goes the wrong way", "it compares in the wrong direction"),
    ),
    Family(
        "condition",
        swaps(
            (r" == ", " != "),
            (r" != ", " == "),
            (r" not in ", " in "),
            (r"if (\w+) in ", r"if \1 not in "),
            (r"if not (\w+):", r"if \1:"),
        ),
        ("the condition is inverted", "it tests the opposite"),
    ),
    Family(
        "connective",
        swaps((r" and ", " or "), (r" or ", " and ")),
        ("and and or are mixed up", "the wrong connective joins the tests"),
    ),
    Family(
        "quantifier",
        swaps((r"\ball\(", "any("), (r"\bany\(", "all(")),
        ("any and all are mixed up", "the wrong quantifier"),
    ),
    Family(
        "truth",
        swaps((r"return True$", "return False"), (r"return False$", "return True")),
        ("it returns the wrong truth value", "True and False are mixed up"),
    ),
)
