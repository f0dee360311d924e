"""What a critic cannot read, as search is told of it. Knows no backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from critic.errors import CriticInputError, HistoryTooLong
from search.errors import CriticRefused, CriticTooLong


@contextmanager
def reading() -> Iterator[None]:
    """Around whatever renders. Raises: ``CriticTooLong``, ``CriticRefused``."""
    try:
        yield
    except HistoryTooLong as error:
        raise CriticTooLong(str(error)) from error
    except CriticInputError as error:
        raise CriticRefused(str(error)) from error
