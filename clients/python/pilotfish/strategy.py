"""A strategy: how to search within a trajectory, across trajectories, and what both may spend.
Knows nothing of how it is carried out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from pilotfish.strict import Strict

SYSTEM_PROMPT = (
    "You solve a task in a shell. Each turn: a short thought, then exactly one command in a "
    "```bash block. Each command runs in a fresh shell in the working directory. "
    "When the task is done, run the command submit alone."
)


_OURS = frozenset({"model", "messages", "n", "best_of", "stream", "stream_options"})


class Sampling(Strict):
    """How the policy samples."""

    temperature: float | None = Field(default=0.9, ge=0, le=2)
    """``None`` leaves it to the policy."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    """Completion tokens of one candidate; ``None`` leaves it to the policy."""
    seed: int | None = None
    stop: list[str] | None = None
    extra: dict[str, Any] = Field(
        default_factory=dict,
        json_schema_extra={"propertyNames": {"not": {"enum": [*sorted(_OURS)]}}},
    )
    """Fields of the request that we pass on untouched (``tools``, ``response_format``...)."""

    @field_validator("extra")
    @classmethod
    def _leaves_ours(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_OURS & extra.keys()):
            raise ValueError(f"{', '.join(taken)}: the search decides, not extra")
        return extra

    @property
    def most_tokens(self) -> int | None:
        """Completion tokens of one candidate at most, as the policy will take it."""
        given = [self.extra.get(name) for name in ("max_completion_tokens", "max_tokens")]
        return next((n for n in given if isinstance(n, int)), self.max_tokens)


Pick = Literal["argmax", "softmax", "vote"]
"""How a step's candidate is chosen."""


class Lookahead(Strict):
    """How one step is decided."""

    k: int = Field(default=4, ge=1, le=64)
    """Candidates a step. 1 is the policy alone: nothing is scored."""
    pick: Pick = "argmax"
    """``vote`` sums Q over equal candidates and takes the highest sum: what the policy says often
    and the critic values."""
    pick_temperature: float = Field(default=0.05, gt=0)
    """Of ``softmax``: probability proportional to exp(Q / temperature)."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """The first candidate with at least this Q is taken at once; the rest is cancelled."""
    deadline: float | None = Field(default=None, gt=0)
    """Seconds after which the best candidate scored so far is taken."""
    sampling: Sampling = Field(default_factory=Sampling)


Rule = Literal["critic", "hybrid", "majority"]
"""How selection ranks finished attempts."""


class Selection(Strict):
    """How many attempts a run makes, and which one it returns."""

    n: int = Field(default=1, ge=1, le=64)
    """Trajectories of a run, each in a sandbox of its own."""
    rule: Rule = "critic"
    """``critic``: the highest last Q. ``hybrid``: of the better half by that, at least three, the
    one that passes most of the task's ``regression_tests``, then of its ``generated_tests``, then
    the highest Q; those tests are executed for nothing else. ``majority``: of the answers that were
    submitted (the task's ``submission``, cleaned of what makes no difference) the one that was
    given most often, then the highest Q."""
    abstain_below: float | None = Field(default=None, ge=0, le=1)
    """Return none if the last Q of the best is below this."""
    until_submitted: bool = False
    """Make another attempt where one ends without a submission."""
    max_attempts: int = Field(default=10, ge=1, le=100)
    """Further attempts of one trajectory at most, with ``until_submitted``."""
    concurrency: int = Field(default=4, ge=1, le=64)
    """Trajectories of one run that are under way at once."""
    accept_at: float | None = Field(default=None, ge=0, le=1)
    """A submitted attempt whose last Q is at least this ends the run: the others are ``Pruned``,
    and those that have not begun do not."""
    prune_behind: float | None = Field(default=None, ge=0, le=1)
    """An attempt whose Q (mean of its last three turns) falls by more than this behind the best of
    those that go on or have submitted is ``Pruned``. Needs Q on the way: ``lookahead.k`` over 1."""
    prune_after: int = Field(default=5, ge=1)
    """Turns before an attempt may fall behind."""


class BudgetLimits(Strict):
    """Bounds of one run over all of its trajectories. ``None`` is no bound."""

    tokens: int | None = Field(default=None, ge=1)
    """Prompt and completion tokens of the policy, every candidate counted."""
    seconds: float | None = Field(default=None, gt=0)
    """Wall time since the run began."""
    steps: int | None = Field(default=None, ge=1)
    """Agent turns that are executed."""


class RolloutSettings(Strict):
    """How a trajectory is run."""

    system_prompt: str = SYSTEM_PROMPT
    max_steps: int = Field(default=50, ge=1, le=1000)
    """Agent turns; the one after the last is ``StepLimitExceeded``."""
    max_format_errors: int = Field(default=3, ge=1)
    """Turns in a row without exactly one command; then ``FormatError``."""
    command_timeout: float = Field(default=60.0, gt=0, le=7200)
    """Seconds of one command."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Seconds of the whole trajectory; then ``TimeLimitExceeded``."""
    observation_chars: int = Field(default=10_000, ge=100)
    """Characters of output that the agent is shown."""
    patience: float = Field(default=600.0, ge=0)
    """Seconds for which a policy or a critic that is away is asked again, with growing pauses.
    After that the trajectory ends as ``PolicyError``, or is decided without the critic."""


def _has(*names: str) -> dict[str, Any]:
    """JSON Schema: an object with a number in that place."""
    schema: dict[str, Any] = {"type": "integer"}
    for name in reversed(names):
        schema = {"required": [name], "properties": {name: schema}}
    return schema


class Strategy(Strict):
    """Search within a trajectory, search across trajectories, and what both may spend."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": _has("budget", "tokens"),
            "then": {
                "anyOf": [
                    _has("lookahead", "sampling", "max_tokens"),
                    _has("lookahead", "sampling", "extra", "max_tokens"),
                    _has("lookahead", "sampling", "extra", "max_completion_tokens"),
                ]
            },
        },
    )

    lookahead: Lookahead = Field(default_factory=Lookahead)
    selection: Selection = Field(default_factory=Selection)
    budget: BudgetLimits = Field(default_factory=BudgetLimits)
    rollout: RolloutSettings = Field(default_factory=RolloutSettings)
    seed: int | None = None
    max_replacements: int = Field(default=2, ge=0, le=10)
    """New trajectories, at most, for one that was lost to the infrastructure."""
    replacement_pause: float = Field(default=1.0, ge=0, le=60)
    """Seconds before the first of them; twice as long before each further one."""

    @model_validator(mode="after")
    def _bounds_what_it_counts(self) -> Strategy:
        if self.budget.tokens is not None and self.lookahead.sampling.most_tokens is None:
            raise ValueError(
                "budget.tokens needs lookahead.sampling.max_tokens: without it nobody knows what a "
                "step may take before it is taken"
            )
        return self
