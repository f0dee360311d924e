"""Requests: one builder for each route, checked before anything is sent. Knows no transport."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError
from typing_extensions import TypedDict

from pilotfish.api import (
    GuideOptions,
    LookaheadRequest,
    RunRequest,
    ScoreRequest,
    SelectionRequest,
)
from pilotfish.errors import BadRequest, first_wrong
from pilotfish.messages import Message
from pilotfish.strategy import Lookahead, Pick, Rule, Strategy
from pilotfish.task import Task
from pilotfish.trajectory import Trajectory

Body = TypeVar("Body", bound=BaseModel)
Messages = Sequence[Message | dict[str, Any]]


class ScoreOptions(TypedDict, total=False):
    """What ``ScoreRequest`` has beside messages and candidates."""

    critic: str | None
    session: str | None


class LookaheadOptions(ScoreOptions, total=False):
    """What ``LookaheadRequest`` has beside messages, lookahead and candidates."""

    model: str | None


class SelectionOptions(TypedDict, total=False):
    """What ``SelectionRequest`` has beside trajectories."""

    sessions: Sequence[str]
    critic: str | None
    rule: Rule
    abstain_below: float | None
    rescore: bool


class RunOptions(TypedDict, total=False):
    """What ``RunRequest`` has beside task and strategy; and ``idempotency_key``, with which a run
    is made once however often it is asked for."""

    model: str | None
    critic: str | None
    sandbox: str | None
    tags: dict[str, str]
    idempotency_key: str | None


class SessionGuide(TypedDict, total=False):
    """``GuideOptions``, by name."""

    k: int | None
    pick: Pick
    pick_temperature: float
    threshold: float | None
    deadline: float | None
    critic: str | None


class Call:
    """One request. ``repeatable``: nothing is lost, and nothing made twice, if it is sent again
    after it may have been carried out."""

    def __init__(
        self,
        method: str,
        path: str,
        body: BaseModel | None = None,
        *,
        repeatable: bool = True,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> None:
        self.method, self.path, self.repeatable = method, path, repeatable
        self.query = {name: value for name, value in query.items() if value is not None}
        self.content = None if body is None else _encoded(body)
        self.headers = {} if body is None else {"Content-Type": "application/json"}
        self.headers |= headers or {}


def lookahead(
    messages: Messages,
    settings: Lookahead | None,
    candidates: Messages | None,
    options: LookaheadOptions,
) -> Call:
    given = {} if settings is None else {"lookahead": settings}
    chosen = {} if candidates is None else {"candidates": candidates}
    body = _body(LookaheadRequest, {"messages": messages, **given, **chosen, **options})
    return Call("POST", "/v1/lookahead", body)


def score(messages: Messages, candidates: Messages | None, options: ScoreOptions) -> Call:
    chosen = {} if candidates is None else {"candidates": candidates}
    body = _body(ScoreRequest, {"messages": messages, **chosen, **options})
    return Call("POST", "/v1/score", body)


def select(trajectories: Sequence[Trajectory], options: SelectionOptions) -> Call:
    given = {"trajectories": trajectories} if trajectories else {}
    return Call("POST", "/v1/selections", _body(SelectionRequest, {**given, **options}))


def create_run(
    task: Task, strategy: Strategy | None, options: RunOptions, client_key: str | None
) -> Call:
    """``client_key`` is the idempotency key where ``options`` have none."""
    fields: dict[str, Any] = {"task": task, **options}
    if strategy is not None:
        fields["strategy"] = strategy
    asked_key = fields.pop("idempotency_key", None)
    key = client_key if asked_key is None else asked_key
    headers = {} if key is None else {"Idempotency-Key": sendable(key, "idempotency_key")}
    body = _body(RunRequest, fields)
    return Call("POST", "/v1/runs", body, repeatable=key is not None, headers=headers)


def get_run(run_id: str, trajectories: bool) -> Call:
    return Call("GET", _run(run_id), trajectories=None if trajectories else "false")


def ask_run(run_id: str, what: str) -> Call:
    """``cancel``, ``pause``, ``resume`` or ``retry``: each means the same said twice."""
    return Call("POST", _run(run_id, what))


def trajectory(run_id: str, number: int) -> Call:
    return Call("GET", _run(run_id, "trajectories", number))


def trajectories(run_id: str) -> Call:
    return Call("GET", _run(run_id, "trajectories"))


def events(run_id: str, after: str | None) -> Call:
    """Those behind the event ``after``."""
    headers = {"Last-Event-ID": sendable(after, "after")} if after else {}
    return Call("GET", _run(run_id, "events"), headers=headers)


def get_session(session: str) -> Call:
    return Call("GET", _session(session))


def guide_session(session: str, options: SessionGuide) -> Call:
    return Call("PUT", _session(session), _body(GuideOptions, {**options}))


def session_trajectory(session: str) -> Call:
    return Call("GET", _session(session, "trajectory"))


def delete_session(session: str) -> Call:
    """Not to be repeated: the second would say that there is none."""
    return Call("DELETE", _session(session), repeatable=False)


def sendable(value: str, param: str) -> str:
    """The value, if a header of HTTP can hold it. Raises: ``BadRequest`` naming ``param``."""
    if value.isascii() and value.isprintable() and value == value.strip():
        return value
    told = "has characters that cannot be sent; give it in printable ASCII, without spaces around"
    raise BadRequest(f"the {param} {told}", status=400, param=param)


def _body(kind: type[Body], fields: dict[str, Any]) -> Body:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        where, told = first_wrong(error.errors())
        raise BadRequest(told, status=400, param=where or None) from error


def _encoded(body: BaseModel) -> bytes:
    try:
        fields = body.model_dump(mode="json", exclude_unset=True)
        return json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the request cannot be written as JSON: {error}", status=400) from error


def _run(run_id: str, *parts: object) -> str:
    return _path("/v1/runs", "run", run_id, *parts)


def _session(session: str, *parts: object) -> str:
    return _path("/v1/sessions", "session", session, *parts)


def _path(root: str, kind: str, name: str, *parts: object) -> str:
    """The path of one, or of a part of it; quoted, so that what is no id is just not found."""
    if not name:
        raise BadRequest(f"the {kind}'s id is empty; give one", status=400, param=f"{kind}_id")
    words = [quote(str(part), safe="", errors="backslashreplace") for part in (name, *parts)]
    return "/".join([root, *words]).replace(".", "%2E")  # else httpx resolves ".."
