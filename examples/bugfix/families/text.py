"""Bug families of text handling; knows nothing of projects or tasks."""

import re
from collections.abc import Iterator

from examples.bugfix.families.family import Family, Scope, swaps

_SIGNS = (",", ";", ":", "=", "-", "/", "@", "&", "_", " ")


def _separators(line: str, scope: Scope) -> Iterator[str]:
    for match in re.finditer(r"(split\()\"([^\"])\"", line):
        for sign in _SIGNS:
            if sign != match[2]:
                yield f'{line[: match.start()]}{match[1]}"{sign}"{line[match.end() :]}'
    for match in re.finditer(r"\"([^\"a-z]{0,3})\"(?=\.join| \+ )", line):
        for sign in ("", " ", *_SIGNS[:5], ", ", match[1].strip()):
            if sign != match[1]:
                yield f'{line[: match.start()]}"{sign}"{line[match.end() :]}'


FAMILIES = (
    Family(
        "cleaning",
        swaps(
            (r"\.strip\(\)", ""),
            (r"\.lower\(\)", ""),
            (r"\.upper\(\)", ""),
            (r"\.replace\(\" \", \"\"\)", ""),
            (r"\.title\(\)", ""),
            (r"(?<=\w)(?=\.split\()", ".lower()"),
            (r"in (\w+):$", r"in \1.lower():"),
            (r"in (\w+) if", r"in \1.lower() if"),
            (r"\[key\]", "[key.strip()]"),
            (r"return (\w+\.split\(\"[^\"]\"\)\[-?\d\])$", r"return \1.lower()"),
            (r"(\"\]) == ", r"\1.lower() == "),
            (r"(\"\]) == ", r"\1.strip() == "),
        ),
        ("the text is not cleaned up rightly", "the cleaning of the text is wrong"),
    ),
    Family(
        "letters",
        swaps(
            (r"\.lower\(\)", ".upper()"),
            (r"\.upper\(\)", ".lower()"),
            (r"\.title\(\)", ".lower()"),
            (r"startswith", "endswith"),
            (r"endswith", "startswith"),
        ),
        ("it uses the wrong text method", "the text method is wrong"),
    ),
    Family("separator", _separators, ("the separator is wrong", "the wrong separator")),
)
