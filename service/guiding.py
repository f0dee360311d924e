"""One guided step as a service: what lookahead and chat completions share. Knows no wire format."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from pilotfish import Decision, Message
from pilotfish.strategy import Lookahead, Sampling
from search.contracts import Critic, Policy, Sample
from search.lookahead import decide
from service.metrics import count_decision


class Recording:
    """A policy that keeps what the inner one gave, for whoever has to answer it as it was."""

    def __init__(self, inner: Policy) -> None:
        self.name, self._inner = inner.name, inner
        self.samples: dict[int, Sample] = {}

    @property
    def answer(self) -> dict[str, Any]:
        """What the answer had beside its choices."""
        return dict(ChainMap(*(sample.answer for sample in reversed(self.samples.values()))))

    async def sample(
        self, state: Sequence[Message], n: int, sampling: Sampling, *, session: str | None = None
    ) -> AsyncGenerator[Sample, None]:
        inner = self._inner.sample(state, n, sampling, session=session)
        try:
            async for sample in inner:
                self.samples[sample.index] = sample
                yield sample
        finally:
            await inner.aclose()


class Given:
    """A policy that gives the caller's own candidates."""

    name = "caller"

    def __init__(self, candidates: Sequence[Message]) -> None:
        self._candidates = candidates

    async def sample(
        self, state: Sequence[Message], n: int, sampling: Sampling, *, session: str | None = None
    ) -> AsyncGenerator[Sample, None]:
        for index, message in enumerate(self._candidates):
            yield Sample(index=index, message=message)


async def guided_step(
    policy: Policy,
    critic: Critic | None,
    state: Sequence[Message],
    lookahead: Lookahead,
    session: str | None,
    *,
    score_one: bool = False,
) -> Decision:
    """Decide, and count it. Raises what ``decide`` raises."""
    decision = await decide(policy, critic, state, lookahead, session=session, score_one=score_one)
    count_decision(decision)
    return decision
