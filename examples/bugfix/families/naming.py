"""Bug families of names: variables, fields, attributes; knows nothing of projects or tasks."""

import re
from collections.abc import Iterator

from examples.bugfix.families.family import Family, Scope


def _variables(line: str, scope: Scope) -> Iterator[str]:
    if line.lstrip().startswith(("def ", "class ")):
        return
    for match in re.finditer(r"(?<![\w.\"])([A-Za-z_]\w*)(?![\w(\"])", line):
        if match[1] not in scope.names or line[match.end() :].startswith((" = ", ", ", " +=")):
            continue
        if re.search(rf"for [\w, ]*\b{match[1]}\b[\w, ]* in", line):
            continue
        for other in scope.names:
            if other != match[1]:
                yield line[: match.start()] + other + line[match.end() :]


def _keys(line: str, scope: Scope) -> Iterator[str]:
    for match in re.finditer(r"\[\"(\w+)\"\]", line):
        for other in scope.keys:
            if other != match[1]:
                yield f'{line[: match.start()]}["{other}"]{line[match.end() :]}'


def _attributes(line: str, scope: Scope) -> Iterator[str]:
    for match in re.finditer(r"self\.(\w+)(?!\w|\()", line):
        for other in scope.attributes:
            if other != match[1]:
                yield f"{line[: match.start()]}self.{other}{line[match.end() :]}"


FAMILIES = (
    Family("variable", _variables, ("the wrong variable", "it uses the wrong name here")),
    Family("field", _keys, ("the wrong field is read", "it reads the wrong key")),
    Family("attribute", _attributes, ("the wrong attribute", "it uses the wrong attribute")),
)
