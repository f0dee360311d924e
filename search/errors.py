"""One error type for each boundary that search works across. Knows nothing of HTTP status codes."""

from __future__ import annotations

from typing import Any


class SearchError(Exception):
    """Base of all: something that search depends on failed."""


class PolicyError(SearchError):
    """The policy gave no usable candidate: unreachable, refused, or all samples failed."""


class ContextTooLong(PolicyError):
    """The state does not fit the policy's context."""


class PolicyRefused(PolicyError):
    """The policy refused the request: asking again is no use. ``status`` and ``body`` are its
    answer."""

    def __init__(self, message: str, status: int, body: dict[str, Any]) -> None:
        super().__init__(message)
        self.status, self.body = status, body


class CriticError(SearchError):
    """The critic gave no score. Search goes on without it, and says so."""


class CriticRefused(CriticError):
    """The critic cannot read this history: asking again is no use."""


class CriticTooLong(CriticRefused):
    """The history does not fit the critic."""


class SandboxError(SearchError):
    """A sandbox could not be started, or did not do what was asked of it."""


class SandboxLost(SandboxError):
    """A sandbox that was there is gone: what it held cannot be had back."""


class JournalError(SearchError):
    """The journal cannot be read or written: whoever runs the run must stop."""


class NotWritten(JournalError):
    """The entry was not written and will not be: the run is another's, or was left."""


class BudgetExceeded(SearchError):
    """The next action does not fit the budget. ``exit_status`` names the limit that was met."""

    def __init__(self, message: str, exit_status: str) -> None:
        super().__init__(message)
        self.exit_status = exit_status
