"""What a bug family is: ways to rewrite one line; knows nothing of projects or tasks."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Scope:
    """What surrounds a line: names and keys in use in the same definition."""

    names: tuple[str, ...]
    keys: tuple[str, ...]
    attributes: tuple[str, ...]
    in_loop_tail: bool = False


Rewrite = Callable[[str, Scope], Iterator[str]]


@dataclass(frozen=True)
class Family:
    """A kind of bug. `repair` says in a few words what is wrong with such a line."""

    name: str
    rewrite: Rewrite
    repair: tuple[str, ...]


def swaps(*pairs: tuple[str, str]) -> Rewrite:
    """Replace each match of a pattern, one at a time; the replacement may use groups."""
    compiled = [(re.compile(pattern), new) for pattern, new in pairs]

    def rewrite(line: str, scope: Scope) -> Iterator[str]:
        for pattern, new in compiled:
            for match in pattern.finditer(line):
                yield line[: match.start()] + match.expand(new) + line[match.end() :]

    return rewrite
