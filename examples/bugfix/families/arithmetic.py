"""Bug families of arithmetic; knows nothing of projects or tasks."""

import re
from collections.abc import Iterator

from examples.bugfix.families.family import Family, Scope, swaps


def _constants(line: str, scope: Scope) -> Iterator[str]:
    for match in re.finditer(r"(?<![\w.\"])(\d{1,3})(?![\w.\"])", line):
        number = int(match[1])
        if number < 2:
            continue
        for other in (
            number + 1,
            number - 1,
            number * 10 if number < 10 else number // 2,
            number + 10,
        ):
            if other != number and other > 1:
                yield line[: match.start()] + str(other) + line[match.end() :]


def _swapped(line: str, scope: Scope) -> Iterator[str]:
    for match in re.finditer(r"(\w+)\((\w+), (\w+)\)", line):
        if not line.lstrip().startswith(("def ", "class ")) and match[2] != match[3]:
            yield (
                line[: match.start()] + f"{match[1]}({match[3]}, {match[2]})" + line[match.end() :]
            )


FAMILIES = (
    Family(
        "operator",
        swaps(
            (r" \+ ", " - "),
            (r" - ", " + "),
            (r" \* ", " + "),
            (r"(?<=[\w\])]) \+ (?=[\w(])", " * "),
        ),
        ("the wrong operator", "it uses the wrong sign", "the arithmetic is wrong"),
    ),
    Family(
        "division",
        swaps((r" // ", " / "), (r" / ", " // "), (r" % ", " // "), (r" // ", " % ")),
        ("the wrong kind of division", "the division is wrong"),
    ),
    Family(
        "accumulator",
        swaps(
            (r"^(\s+\w+) = 0$", r"\1 = 1"),
            (r"^(\s+\w+) = 1$", r"\1 = 0"),
            (r"(\.get\(\w+, )0\)", r"\g<1>1)"),
            (r"(\.get\(\w+, )1\)", r"\g<1>0)"),
            (r"(\] = )0$", r"\g<1>1"),
            (r"(\] = )1$", r"\g<1>0"),
        ),
        ("the start value is wrong", "it starts from the wrong number"),
    ),
    Family("constant", _constants, ("the constant is wrong", "the number does not fit")),
    Family(
        "absolute",
        swaps(
            (r"abs\((\w+(?:\[\d\])? - \w+(?:\[\d\])?)\)", r"(\1)"),
            (r"\((\w+(?:\[\d\])? - \w+(?:\[\d\])?)\)", r"abs(\1)"),
            (r"return (\w+ - \w+)$", r"return abs(\1)"),
            (r"return abs\((\w+ - \w+)\)$", r"return \1"),
        ),
        ("the sign of the difference is not dropped", "abs is misplaced here"),
    ),
    Family(
        "extreme",
        swaps((r"\bmin\(", "max("), (r"\bmax\(", "min(")),
        ("min and max are mixed up", "it takes the wrong extreme"),
    ),
    Family("swapped", _swapped, ("the arguments are swapped", "the argument order is wrong")),
)
