"""Runs a project's code in this process to see what it gives; for generated code only."""

import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from examples.bugfix.pieces import Case

_IMPORT = re.compile(r"^(from \w+ import .*|import \w+)\n", re.MULTILINE)


class TooSlow(BaseException):
    """The code took more processor time than it was given."""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def namespace_of(files: Mapping[str, str]) -> dict[str, object] | None:
    """All definitions of a project in one namespace; None when the code does not load."""
    space: dict[str, object] = {}
    try:
        exec("\n".join(_IMPORT.sub("", text) for text in files.values()), space)
    except (SyntaxError, NameError, TypeError):
        return None
    return space


def outcome(space: dict[str, object], case: Case) -> tuple[str, object]:
    """What a case gives: ("value", value), ("error", text) or ("slow", "")."""
    local = dict(space)
    try:
        with _at_most(0.5):
            exec(case.setup, local)
            return "value", eval(case.expression, local)
    except TooSlow:
        return "slow", ""
    except (
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
        NameError,
        AttributeError,
        RecursionError,
    ) as error:
        return "error", f"{type(error).__name__}: {error}"
