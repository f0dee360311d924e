"""What can go wrong for a caller: one exception for each kind. Knows no transport."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class PilotfishError(Exception):
    """Base of all."""

    run_id: str | None = None
    """The run that was made and then lost sight of: it goes on without its caller."""

    def __str__(self) -> str:
        if self.run_id is None:
            return super().__str__()
        return (
            f"{super().__str__()} (run {self.run_id} is in the service: `wait` for it again, or "
            f"`pilotfish runs watch {self.run_id}`)"
        )


class ConnectionFailed(PilotfishError):
    """The service cannot be reached."""


class RequestTimeout(PilotfishError):
    """The service did not answer in time."""


class UnexpectedAnswer(PilotfishError):
    """What answered is not the service, or one of another version."""


class ApiStatusError(PilotfishError):
    """The service answered with an error. ``status`` is HTTP's; ``code`` and ``param`` say more;
    ``retry_after`` is how many seconds it asks to wait."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.retry_after = retry_after


class BadRequest(ApiStatusError):
    """400: the request is wrong; ``param`` names the field. Also of one that was not sent."""


class AuthenticationFailed(ApiStatusError):
    """401: no known key."""


class PermissionDenied(ApiStatusError):
    """403: the key, or something on the way, does not allow it."""


class NotFound(ApiStatusError):
    """404: no such model, critic, run, session or trajectory."""


class Conflict(ApiStatusError):
    """409: the run is not so that this can be done, or the idempotency key was used for another
    request."""


class TooLarge(ApiStatusError):
    """413: the body is over the service's limit."""


class Unprocessable(ApiStatusError):
    """422: the policy or something on the way understands the request, and cannot do it."""


class Overloaded(ApiStatusError):
    """429: too much is under way; try again later."""


class ServerFailed(ApiStatusError):
    """5xx: the service, the policy, the critic or a sandbox failed."""


_BY_STATUS: dict[int, type[ApiStatusError]] = {
    400: BadRequest,
    401: AuthenticationFailed,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: Unprocessable,
    429: Overloaded,
}


def first_wrong(errors: Sequence[Any], *within: str) -> tuple[str, str]:
    """The field that the first of Pydantic's ``errors()`` is about (empty: the whole value), and a
    line that says what is wrong with it. ``within`` is where the value itself stands."""
    first = errors[0]
    where = ".".join(map(str, (*within, *first["loc"])))
    message = str(first["msg"]).removeprefix("Value error, ")
    return where, f"{where}: {message}" if where else message


def error_of(status: int, body: Any, retry_after: float | None = None) -> ApiStatusError:
    """The exception for an answer that is not a success."""
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    kind = _BY_STATUS.get(status, ServerFailed if status >= 500 else ApiStatusError)
    message = str(error.get("message") or f"the service answers {status}")
    code, param = error.get("code"), error.get("param")
    return kind(message, status=status, code=code, param=param, retry_after=retry_after)
