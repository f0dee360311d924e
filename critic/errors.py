"""The error of this package: something about a critic or its input is not as it must be."""

from __future__ import annotations


class CriticInputError(ValueError):
    """The data, the history or the checkpoint cannot be used. The text says what to do."""


class NotAppendOnly(CriticInputError):
    """The chat template rewrites earlier turns, so no prefix can be cached or trained in one
    pass."""


class NotJudged(CriticInputError):
    """A critic has no Q of this history; of others it has."""

    why = "not judged"
    """For those who count."""


class NotRendered(NotJudged):
    """The chat template or the tokenizer refuses the history."""

    why = "refused by the critic's template"


class HistoryTooLong(NotJudged):
    """The history has more tokens than the critic reads."""

    why = "too long"
