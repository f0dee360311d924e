"""What goes over HTTP, request and response of every route of our own. Knows no transport."""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from pilotfish.messages import Message
from pilotfish.strategy import Lookahead, Pick, Rule, Strategy
from pilotfish.strict import Strict
from pilotfish.task import Task
from pilotfish.trajectory import Decision, Trajectory, Usage

RunStatus = Literal[
    "queued", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "cancelled"
]
"""``queued``: it waits for a worker, at its beginning or after one left it. ``succeeded``: it ended
and something was selected, or it abstained. ``failed``: nothing could be selected; the
trajectories' exit statuses say why."""

FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})


Item = TypeVar("Item")


class Page(Strict, Generic[Item]):
    """One page of a list."""

    object: Literal["list"] = "list"
    data: list[Item]
    next: str | None = None
    """Give it as ``after`` for the next page."""


def _is_turn(message: Message) -> Message:
    if message.role != "assistant":
        raise ValueError(f"a candidate is an assistant's message; got one of {message.role}")
    return message


Turn = Annotated[
    Message,
    AfterValidator(_is_turn),
    Field(json_schema_extra={"properties": {"role": {"const": "assistant"}}}),
]


class LookaheadRequest(Strict):
    """``POST /v1/lookahead``: decide one step, execute nothing."""

    messages: list[Message] = Field(min_length=1)
    lookahead: Lookahead = Field(default_factory=Lookahead)
    model: str | None = None
    """The policy, by name; ``None`` is the default one."""
    critic: str | None = None
    session: str | None = Field(default=None, max_length=200)
    """Calls of one session reach the same replicas, which keep its prefix."""
    candidates: list[Turn] | None = Field(default=None, min_length=1, max_length=64)
    """Your own candidates: they are scored and chosen from, and the policy is not asked."""


class LookaheadResponse(Strict):
    decision: Decision
    message: Message
    """The chosen candidate."""


class ScoreRequest(Strict):
    """``POST /v1/score``: Q of candidates in a state, or, without candidates, of every agent turn
    of the history."""

    messages: list[Message] = Field(min_length=1)
    candidates: list[Turn] | None = Field(default=None, min_length=1, max_length=256)
    critic: str | None = None
    session: str | None = Field(default=None, max_length=200)


class ScoreResponse(Strict):
    critic: str
    q: list[float]
    """In [0, 1]: by candidate, or by agent turn, oldest first."""
    spread: list[float | None] = Field(default_factory=list)
    """Standard deviation of each; ``null`` where the critic gives none."""


class SelectionRequest(Strict):
    """``POST /v1/selections``: which of these finished trajectories, or sessions, to return."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {
                    "required": [given],
                    "properties": {given: {"minItems": 1}, other: {"maxItems": 0}},
                }
                for given, other in (("trajectories", "sessions"), ("sessions", "trajectories"))
            ]
        }
    )

    trajectories: list[Trajectory] = Field(default_factory=list, max_length=256)
    sessions: list[str] = Field(default_factory=list, max_length=256)
    """Ids of sessions, whose trajectories they are, instead."""
    critic: str | None = None
    rule: Rule = "critic"
    """``hybrid`` goes by the counts of passed tests that the trajectories carry, too."""
    abstain_below: float | None = Field(default=None, ge=0, le=1)
    rescore: bool = True
    """Read every trajectory again with this critic; false uses the Q that is recorded."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if bool(self.trajectories) == bool(self.sessions):
            raise ValueError("either trajectories or sessions are needed, at least one")
        return self


class SelectionResponse(Strict):
    chosen: int | None
    """Position in the request; ``None`` is an abstention."""
    ranking: list[int]
    q: list[float | None]
    """Last Q of each, in the order of the request."""
    spread: list[float | None] = Field(default_factory=list)
    """Its standard deviation; ``null`` where the critic gives none."""
    reason: str


class RunRequest(Strict):
    """``POST /v1/runs``: run a task under a strategy."""

    task: Task
    strategy: Strategy = Field(default_factory=Strategy)
    model: str | None = None
    critic: str | None = None
    """``"none"`` runs without one."""
    sandbox: str | None = None
    """The sandbox backend, by name; ``None`` is the default one."""
    tags: dict[str, str] = Field(default_factory=dict, max_length=16)


class TrajectorySummary(Strict):
    """One trajectory of a run, without its steps."""

    number: int
    """Position in the run; ``GET /v1/runs/{id}/trajectories/{number}`` gives it whole."""
    id: str
    slot: int
    """Which of the N it is, or was an attempt at."""
    attempt: int
    exit_status: str | None
    exit_message: str = ""
    reward: float | None
    last_q: float | None
    last_spread: float | None = None
    regression_passed: int | None = None
    generated_passed: int | None = None
    steps: int
    usage: Usage


class RunView(Strict):
    """``GET /v1/runs/{id}``."""

    id: str
    status: RunStatus
    task_id: str
    policy: str
    critic: str | None
    created_at: float
    """Unix time, seconds."""
    ended_at: float | None = None
    strategy: Strategy
    tags: dict[str, str] = Field(default_factory=dict)
    trajectories: list[TrajectorySummary] = Field(default_factory=list)
    selected: int | None = None
    """``number`` of the selected trajectory."""
    ranking: list[int] = Field(default_factory=list)
    reason: str = ""
    error: str | None = None
    usage: Usage = Field(default_factory=Usage)


class RunList(Page[RunView]):
    """``GET /v1/runs``: newest first."""


class GuideOptions(Strict):
    """How calls are guided: of one call the body's ``pilotfish`` object, or the headers
    ``x-pilotfish-FIELD``, with ``-`` for ``_``; of a session or a key what holds where its calls do
    not say. Header > body > session > key > the service's default."""

    k: int | None = Field(default=None, ge=1, le=64)
    pick: Pick = "argmax"
    pick_temperature: float = Field(default=0.05, gt=0)
    threshold: float | None = Field(default=None, ge=0, le=1)
    deadline: float | None = Field(default=None, gt=0)
    critic: str | None = None


SESSION_ID = r"^[!-.0-~]{1,200}$"
"""What names a session: printable ASCII without spaces and slashes, since it stands in paths."""


class SessionView(Strict):
    """``GET /v1/sessions/{id}``: the calls of one outside agent, through the endpoint."""

    id: str
    task: str = ""
    """How what the user first said begins."""
    policy: str | None = None
    critic: str | None = None
    created_at: float
    """Unix time, seconds."""
    last_at: float
    """Of its last call."""
    calls: int = 0
    degraded: int = 0
    """How many of these were decided with less than was asked for."""
    last_q: float | None = None
    usage: Usage = Field(default_factory=Usage)
    guide: GuideOptions | None = None
    """How its calls are guided that do not say it; ``null`` where that was never set."""


class SessionList(Page[SessionView]):
    """``GET /v1/sessions``: the latest called first."""


class Event(BaseModel):
    """One line of a run's events: an entry of its journal."""

    model_config = ConfigDict(extra="allow")

    id: str
    """Give it as ``Last-Event-ID`` to go on behind it."""
    kind: str
    at: float


class ErrorBody(BaseModel):
    """What is wrong, and what to do."""

    model_config = ConfigDict(extra="allow")

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """An error, in OpenAI's shape."""

    error: ErrorBody
