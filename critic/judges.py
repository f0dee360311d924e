"""Who says Q of recorded trajectories: a critic that is loaded here, or any judge of a service.
Knows no measure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from critic.data import Example, example_of
from critic.devices import accelerator_of_here
from critic.errors import CriticInputError, HistoryTooLong, NotJudged
from critic.importing.served import is_service
from critic.measuring import values_of
from critic.scoring import Scorer
from critic.trajectory import Trajectory
from pilotfish import Message, Pilotfish
from pilotfish.errors import ApiStatusError

BATCH_TOKENS = 16_384
REQUESTS_AT_ONCE = 8


class Judge(Protocol):
    """What measuring asks of a critic."""

    at_once: int
    """Trajectories that it is best given together."""

    def turns(self, trajectories: Sequence[Trajectory]) -> list[list[float] | NotJudged]:
        """Q at every agent turn of each."""
        ...

    def candidates(
        self, trajectory: Trajectory, of_steps: Sequence[Sequence[Message]]
    ) -> list[list[float]]:
        """Q of the candidates that each step of a trajectory had. Raises: ``NotJudged``."""
        ...


class Local:
    """A critic of this process; ``raw`` leaves out its calibration."""

    at_once = 512

    def __init__(
        self, scorer: Scorer, *, raw: bool = False, batch_tokens: int = BATCH_TOKENS
    ) -> None:
        self.card = scorer.card
        self._scorer, self._raw, self._batch_tokens = scorer, raw, batch_tokens
        self._accelerator = accelerator_of_here()

    def turns(self, trajectories: Sequence[Trajectory]) -> list[list[float] | NotJudged]:
        found = [self._example(trajectory) for trajectory in trajectories]
        values = iter(self._values([one for one in found if isinstance(one, Example)]))
        return [next(values) if isinstance(one, Example) else one for one in found]

    def candidates(
        self, trajectory: Trajectory, of_steps: Sequence[Sequence[Message]]
    ) -> list[list[float]]:
        return [
            self._scorer.score(state, actions, policy=trajectory.policy)
            for state, actions in zip(_states(trajectory), of_steps, strict=True)
        ]

    def _example(self, trajectory: Trajectory) -> Example | list[float] | NotJudged:
        try:
            windows = self._scorer.renderer.windows(trajectory.messages, policy=trajectory.policy)
        except NotJudged as error:
            return error
        return example_of(windows, trajectory.task_id, trajectory.reward or 0.0) if windows else []

    def _values(self, examples: list[Example]) -> list[list[float]]:
        model = self._scorer.model
        pad = int(model.network.config.pad_token_id)
        found = values_of(self._accelerator, model, examples, self._batch_tokens, pad)
        if self._raw or self.card.calibration is None:
            return found
        return [[self.card.calibration.apply(q) for q in qs] for qs in found]


class Served:
    """A judge of a service, asked through its API; its key is the client's, ``PILOTFISH_KEY``.
    Whose turns it judges is not said: a serving critic that is told so has it in its settings. What
    the service cannot do at all ends the asking: ``turns`` raises ``PilotfishError``, or
    ``CriticInputError`` where the judge fails at all that it is given first."""

    at_once = 4 * REQUESTS_AT_ONCE

    def __init__(self, client: Pilotfish, name: str | None = None) -> None:
        """``name``: which of its critics; ``None`` is its default."""
        self._client = client
        self._critic: dict[str, Any] = {} if name is None else {"critic": name}
        self._has_judged = False

    def turns(self, trajectories: Sequence[Trajectory]) -> list[list[float] | NotJudged]:
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            found = list(pool.map(self._turns, trajectories))
        failed = [one for one in found if type(one) is NotJudged]
        if len(failed) == len(found) > 1 and not self._has_judged:
            raise CriticInputError(f"none of {len(found)} trajectories was judged: {failed[0]}")
        self._has_judged |= len(failed) < len(found)
        return found

    def _turns(self, trajectory: Trajectory) -> list[float] | NotJudged:
        try:
            with _told():
                return self._client.score(trajectory.messages, **self._critic)
        except NotJudged as error:
            return error

    def candidates(
        self, trajectory: Trajectory, of_steps: Sequence[Sequence[Message]]
    ) -> list[list[float]]:
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            return list(pool.map(self._candidates, _states(trajectory), of_steps))

    def _candidates(self, state: Sequence[Message], actions: Sequence[Message]) -> list[float]:
        with _told():
            return self._client.score(state, actions, **self._critic)


def _states(trajectory: Trajectory) -> Iterator[list[Message]]:
    """The history before each step."""
    state = list(trajectory.prefix)
    for step in trajectory.steps:
        yield state
        state = [*state, step.decision.message, *step.replies]


def said(
    by: Judge, trajectories: Iterable[Trajectory]
) -> Iterator[tuple[Trajectory, list[float] | NotJudged]]:
    """Each trajectory with Q at every agent turn, or why there is none."""
    rest = iter(trajectories)
    while some := list(islice(rest, by.at_once)):
        yield from zip(some, by.turns(some), strict=True)


@contextmanager
def judge_at(place: str | Path, name: str | None = None, *, raw: bool = False) -> Iterator[Judge]:
    """The critic in a folder, or the one of this name of the service at a URL. ``raw``: as
    ``Local`` has it; what a service says is calibrated.

    Raises: ``CriticInputError`` for a folder that is no critic, or that is given a name.
    """
    if is_service(place):
        with Pilotfish(str(place)) as client:
            yield Served(client, name)
    elif name is not None:
        raise CriticInputError(f"--name is of a service's critic; {place} is a folder")
    else:
        yield Local(Scorer(place), raw=raw)


@contextmanager
def _told() -> Iterator[None]:
    """What a service answers of one trajectory, told apart from what it answers of all."""
    try:
        yield
    except ApiStatusError as error:
        match error.code:
            case "context_length_exceeded":
                raise HistoryTooLong(str(error)) from error
            case "critic_error" | "critic_refused":
                raise NotJudged(str(error)) from error
        raise
