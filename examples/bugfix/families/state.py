"""Bug families of state: assignment, copies, early ends; knows nothing of projects or tasks."""

from collections.abc import Iterator

from examples.bugfix.families.family import Family, Scope, swaps


def _indentation(line: str, scope: Scope) -> Iterator[str]:
    if not scope.in_loop_tail:
        return
    if line.startswith(("    return", "        return")):
        yield "    " + line
    if line.startswith("        return"):
        yield line[4:]


FAMILIES = (
    Family(
        "update",
        swaps(
            (r" \+= ", " = "),
            (r" -= ", " += "),
            (r" \*= ", " += "),
            (r" \+= ", " -= "),
            (r" -= ", " = "),
            (r"^(\s{8,}\S+) = (?!.*\b(get|split)\b)", r"\1 += "),
        ),
        ("the update is wrong", "it updates with the wrong operator"),
    ),
    Family(
        "aliasing",
        swaps(
            (r"\blist\((\w+)\)", r"\1"),
            (r"\bdict\((\w+)\)", r"\1"),
            (r"\.copy\(\)", ""),
            (r"= (\w+)\[:\]", r"= \1"),
            (r"^(\s+\w+ = )(\w{2,})$", r"\1list(\2)"),
            (r"^(\s+\w+ = )(\w{2,})$", r"\1dict(\2)"),
            (r"^(\s+\w+ = )(\w{2,})$", r"\1\2.copy()"),
            (r"(self\.\w+ = )(\w+)$", r"\1list(\2)"),
        ),
        ("the caller's value is changed in place", "it must work on a copy"),
    ),
    Family(
        "early_return",
        _indentation,
        ("the return is at the wrong depth", "the return has the wrong indentation"),
    ),
    Family(
        "adding",
        swaps((r"\.append\((\w+)\)", r".insert(0, \1)"), (r"\.insert\(0, (\w+)\)", r".append(\1)")),
        ("it adds at the wrong end", "the element goes to the wrong end"),
    ),
)
