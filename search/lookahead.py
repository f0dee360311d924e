"""1-step lookahead: K candidates, one choice. Knows nothing of how the choice is executed.

Source: Zainullina et al., "Guided Search Strategies in Non-Serializable Environments", ICML 2025,
section on 1-step lookahead. What we add: the critic reads the state while the policy decodes, each
candidate is scored the moment it is complete, and what still decodes is cancelled once the choice
is settled. So a step costs its slowest candidate and one scoring of that candidate's own tokens.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator, Sequence

from pilotfish import Candidate, Decision, Message
from pilotfish.strategy import Lookahead
from search.contracts import Critic, Policy, Sample, Score
from search.errors import CriticError, PolicyError


async def decide(
    policy: Policy,
    critic: Critic | None,
    state: Sequence[Message],
    lookahead: Lookahead,
    *,
    session: str | None = None,
    seed: int | None = None,
    score_one: bool = False,
) -> Decision:
    """Sample, score and choose one agent turn. A single candidate leaves nothing to choose, so it
    is scored only with ``score_one``.

    Failing samples and a failing critic make the decision ``degraded``, not impossible.

    Raises: ``PolicyError`` when there is no candidate at all; ``ContextTooLong``.
    """
    scored = lookahead.k > 1 or score_one
    step = _Step(critic if scored else None, state, lookahead, session)
    sampling = lookahead.sampling
    if sampling.seed is None and seed is not None:
        sampling = sampling.model_copy(update={"seed": seed})
    samples = policy.sample(state, lookahead.k, sampling, session=session)
    try:
        await step.gather(samples)
    finally:
        await step.stop(samples)
    given = sampling.extra.get("seed") if sampling.seed is None else sampling.seed
    return step.choose(random.Random(given if isinstance(given, int) else None))


class _Step:
    """The state of one decision while candidates and scores come in."""

    def __init__(
        self,
        critic: Critic | None,
        state: Sequence[Message],
        lookahead: Lookahead,
        session: str | None,
    ) -> None:
        self.critic, self.state, self.lookahead, self.session = critic, state, lookahead, session
        self.candidates: dict[int, Candidate] = {}
        self.notes: list[str] = []
        self.settled: str | None = None
        self.prompt_tokens = 0
        self._under_way: dict[int, int] = {}
        self._first_of: dict[str, int] = {}
        self._scorings: dict[asyncio.Task[Score], int] = {}
        self._scored_now: list[asyncio.Task[Score]] = []
        self._changed = asyncio.Event()
        self._warming: asyncio.Task[None] | None = None
        self._began = time.monotonic()
        self.policy_seconds = 0.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    async def gather(self, samples: AsyncGenerator[Sample, None]) -> None:
        """Take samples and scores as they come, until all are in or the choice is settled."""
        if self.critic is not None:
            self._warming = asyncio.create_task(self._warm(self.critic))
        feeding = asyncio.create_task(self._feed(samples))
        feeding.add_done_callback(lambda _: self._changed.set())
        try:
            while not self.settled and not (feeding.done() and not self._scorings):
                await self._change()
                while self._scored_now and not self.settled:
                    self._scored(self._scored_now.pop(0))
            if feeding.done():
                feeding.result()
        finally:
            self.policy_seconds = self.policy_seconds or self.elapsed
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    async def _feed(self, samples: AsyncGenerator[Sample, None]) -> None:
        """Take samples as they come. A policy that fails after it gave some candidates only ends
        them."""
        try:
            async for sample in samples:
                self._add(sample)
                self._changed.set()
        except PolicyError as error:
            if not any(c.message for c in self.candidates.values()):
                raise
            self.notes.append(f"policy stopped early: {error}")
        self.policy_seconds = self.elapsed

    async def _change(self) -> None:
        """Wait for a sample, a score, or the deadline."""
        try:
            async with asyncio.timeout(self._patience()):
                await self._changed.wait()
        except TimeoutError:
            self.settled = "deadline"
        self._changed.clear()

    def _patience(self) -> float | None:
        """Seconds left until the deadline; no deadline before there is something to take."""
        if self.lookahead.deadline is None or not any(c.message for c in self.candidates.values()):
            return None
        return max(0.0, self.lookahead.deadline - self.elapsed)

    async def _warm(self, critic: Critic) -> None:
        try:
            await critic.warm(self.state, session=self.session)
        except CriticError as error:
            self.notes.append(f"critic did not read the state ahead: {error}")

    def _add(self, sample: Sample) -> None:
        candidate = Candidate(
            index=sample.index,
            message=sample.message,
            logprob=sample.logprob,
            tokens=sample.tokens,
            seconds=self.elapsed,
            finish_reason=sample.finish_reason,
            error=sample.error,
        )
        self.candidates[sample.index] = candidate
        self.prompt_tokens = max(self.prompt_tokens, sample.prompt_tokens)
        self._under_way = sample.under_way
        if sample.message is None or self.critic is None:
            return
        first = self._first_of.setdefault(sample.message.action_key, sample.index)
        if first != sample.index:
            candidate.duplicate_of = first
            candidate.q = self.candidates[first].q
            candidate.spread = self.candidates[first].spread
            return
        scoring = asyncio.create_task(self._score(self.critic, sample.message))
        self._scorings[scoring] = sample.index
        scoring.add_done_callback(self._has_scored)

    def _has_scored(self, scoring: asyncio.Task[Score]) -> None:
        self._scored_now.append(scoring)
        self._changed.set()

    async def _score(self, critic: Critic, action: Message) -> Score:
        [score] = await critic.score(self.state, [action], session=self.session)
        if not 0 <= score.q <= 1:  # nor is NaN
            raise CriticError(f"the critic gave {score.q}, not a number in [0, 1]")
        return score

    def _scored(self, scoring: asyncio.Task[Score]) -> None:
        index = self._scorings.pop(scoring)
        try:
            score = scoring.result()
        except CriticError as error:
            self.notes.append(f"candidate {index} was not scored: {error}")
            return
        for candidate in self.candidates.values():
            if candidate.index == index or candidate.duplicate_of == index:
                candidate.q, candidate.spread = score.q, score.spread
        threshold = self.lookahead.threshold
        if threshold is not None and score.q >= threshold:
            self.settled = "threshold"

    async def stop(self, samples: AsyncGenerator[Sample, None]) -> None:
        """Free all that is still under way, also when we are being cancelled."""
        tasks: list[asyncio.Task[object]] = list(self._scorings)
        if self._warming is not None:
            tasks.append(self._warming)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await samples.aclose()

    def choose(self, rng: random.Random) -> Decision:
        whole = [c for _, c in sorted(self.candidates.items()) if c.message is not None]
        if not whole:
            errors = "; ".join(c.error for c in self.candidates.values() if c.error)
            raise PolicyError(f"the policy gave no candidate: {errors or 'it answered nothing'}")
        chosen, reason = self._pick(whole, rng)
        missing = len(whole) < self.lookahead.k
        unscored = self.critic is not None and any(c.q is None for c in whole)
        if self.settled:
            self._note_cancelled()
        if missing:
            self.notes.append(f"{len(whole)} of {self.lookahead.k} candidates")
        return Decision(
            candidates=[c for _, c in sorted(self.candidates.items())],
            requested=self.lookahead.k,
            chosen=chosen.index,
            reason=reason,
            degraded=self.settled != "threshold" and (missing or unscored),
            notes=self.notes,
            prompt_tokens=self.prompt_tokens,
            policy_seconds=self.policy_seconds,
            seconds=self.elapsed,
        )

    def _note_cancelled(self) -> None:
        """What was not waited for has cost what it decoded until the last sample came."""
        for index in range(self.lookahead.k):
            if index not in self.candidates:
                self.candidates[index] = Candidate(
                    index=index, tokens=self._under_way.get(index, 0), error="cancelled"
                )

    def _pick(self, whole: list[Candidate], rng: random.Random) -> tuple[Candidate, str]:
        # the lowest index of each, whichever came first
        unique = {_key(c): c for c in reversed(whole)}
        scored = [c for c in whole if c.q is not None]
        if self.critic is None and len(whole) == 1:
            return whole[0], "only"
        if not scored:
            return _without_critic(whole)
        best = max(scored, key=_by_q)
        if self.settled:
            return best, self.settled
        if len(unique) == 1:
            return best, "unanimous" if len(whole) > 1 else "only"
        if self.lookahead.pick == "softmax":
            pool = [c for c in scored if unique[_key(c)] is c]
            return _softmax(pool, self.lookahead.pick_temperature, rng), "softmax"
        if self.lookahead.pick == "vote":
            return _vote(scored), "vote"
        return best, "argmax"


def _key(candidate: Candidate) -> str:
    assert candidate.message is not None
    return candidate.message.action_key


def _by_q(candidate: Candidate) -> tuple[float, float, int]:
    assert candidate.q is not None
    return (candidate.q, candidate.likelihood, -candidate.index)


def _softmax(scored: list[Candidate], temperature: float, rng: random.Random) -> Candidate:
    top = max(c.q for c in scored if c.q is not None)
    weights = [math.exp(((c.q or 0.0) - top) / temperature) for c in scored]
    return rng.choices(scored, weights)[0]


def _vote(scored: list[Candidate]) -> Candidate:
    """Of the action whose candidates' Q sum up highest; of equal sums, by Q."""
    sums: dict[str, float] = {}
    for candidate in scored:
        sums[_key(candidate)] = sums.get(_key(candidate), 0.0) + (candidate.q or 0.0)
    return max(scored, key=lambda c: (sums[_key(c)], *_by_q(c)))


def _without_critic(whole: list[Candidate]) -> tuple[Candidate, str]:
    """The documented rule when nothing is scored: majority, then most probable, then first."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in whole:
        groups.setdefault(_key(candidate), []).append(candidate)
    largest = max(len(group) for group in groups.values())
    pool = [group[0] for group in groups.values() if len(group) == largest]
    reason = "majority" if largest > 1 and len(pool) == 1 else "most_probable"
    return max(pool, key=lambda c: (c.likelihood, -c.index)), reason
