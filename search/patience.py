"""A policy and a critic that outlast an endpoint that is away: for runs, whose steps are too dear
to be lost or spoilt by a server's restart. Knows nothing of steps.

What cannot be asked (refused, too long) is not asked again. What was waited for in vain is not
waited for again until it answers once more: a run whose critic is gone for good pays once.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

import structlog

from pilotfish import Message
from pilotfish.strategy import Sampling
from search.contracts import Critic, Policy, Sample, Score
from search.errors import ContextTooLong, CriticError, CriticRefused, PolicyError, PolicyRefused

T = TypeVar("T")
log = structlog.get_logger()

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 15.0
MORE_TRIES = 2
"""Of a request that was answered, but for some of its samples."""


class _Patience:
    """What the calls to one endpoint know of it together."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.last_answer = -math.inf
        """Monotonic time."""
        self.in_vain = False
        """It was waited for, and nothing answered since."""

    def answered(self) -> None:
        self.last_answer, self.in_vain = time.monotonic(), False

    def asking(self) -> _Asking:
        return _Asking(self)


class _Asking:
    """One call that is made until it succeeds: for ``seconds`` from its first failure."""

    def __init__(self, patience: _Patience) -> None:
        self._patience = patience
        self._since: float | None = None
        self.tried = 0

    async def wait(self, error: Exception) -> bool:
        """Pause before the next try; false where there is to be none."""
        patience, now = self._patience, time.monotonic()
        self._since = now if self._since is None else self._since
        self.tried += 1
        left = self._since + patience.seconds - now
        if left <= 0 and patience.last_answer < self._since:
            patience.in_vain = True
        if left <= 0 or patience.in_vain:
            return False
        log.warning("asked again", error=str(error), tried=self.tried)
        await asyncio.sleep(min(left, LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.tried, 10)))
        return True


class PatientPolicy:
    """A policy that is asked again. The whole request is repeated, with its seed, and of its
    samples those are taken that were missing: where sampling is seeded they are the same."""

    def __init__(self, policy: Policy, seconds: float) -> None:
        self._policy, self.name = policy, policy.name
        self._patience = _Patience(seconds)

    async def sample(
        self, state: Sequence[Message], n: int, sampling: Sampling, *, session: str | None = None
    ) -> AsyncGenerator[Sample, None]:
        """As the contract says."""
        given: set[int] = set()
        asking = self._patience.asking()
        while True:
            failed: dict[int, Sample] = {}
            error: PolicyError | None = None
            try:
                samples = self._policy.sample(state, n, sampling, session=session)
                async with aclosing(samples):
                    async for sample in samples:
                        if sample.message is None:
                            failed[sample.index] = sample
                        elif sample.index not in given:
                            given.add(sample.index)
                            yield sample
            except (ContextTooLong, PolicyRefused):
                raise
            except PolicyError as caught:
                error = caught
            if error is None:
                self._patience.answered()
            missing = error or PolicyError(f"{n - len(given)} of {n} samples failed")
            done = error is None and (len(given) == n or asking.tried >= MORE_TRIES)
            if not done and await asking.wait(missing):
                continue
            if error is not None:
                raise error
            for sample in failed.values():
                if sample.index not in given:
                    yield sample
            return


class PatientCritic:
    """A critic that is asked again."""

    def __init__(self, critic: Critic, seconds: float) -> None:
        self._critic = critic
        self.name, self.every_turn = critic.name, critic.every_turn
        self._patience = _Patience(seconds)

    async def warm(self, state: Sequence[Message], *, session: str | None = None) -> None:
        """Once: scoring will say."""
        await self._critic.warm(state, session=session)

    async def score(
        self, state: Sequence[Message], actions: Sequence[Message], *, session: str | None = None
    ) -> list[Score]:
        """As the contract says."""
        return await self._asked(lambda: self._critic.score(state, actions, session=session))

    async def score_turns(self, messages: Sequence[Message]) -> list[Score]:
        """As the contract says."""
        return await self._asked(lambda: self._critic.score_turns(messages))

    async def _asked(self, call: Callable[[], Awaitable[T]]) -> T:
        asking = self._patience.asking()
        while True:
            try:
                answer = await call()
            except CriticRefused:
                raise
            except CriticError as error:
                if not await asking.wait(error):
                    raise
            else:
                self._patience.answered()
                return answer
