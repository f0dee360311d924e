"""The error of this package: something about a critic or its input is not as it must be."""

from __future__ import annotations


class CriticInputError(ValueError):
    """The data, the history or the checkpoint cannot be used. The text says what to do."""


class NotAppendOnly(CriticInputError):
    """The chat template rewrites earlier turns, so no prefix can be cached or trained in one
    pass."""


class HistoryTooLong(CriticInputError):
    """The history has more tokens than the critic reads."""
