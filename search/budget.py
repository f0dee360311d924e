"""What a run may spend, checked before it is spent. Knows nothing of what is bought."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pilotfish import Usage
from pilotfish.strategy import BudgetLimits
from search.errors import BudgetExceeded


class Budget:
    """What is left of ``BudgetLimits``. One object is shared by the trajectories of a run.

    A step takes a reservation of its worst case, so that calls made at once cannot together spend
    what only one of them was allowed; what it really used is settled when it ends.
    """

    def __init__(
        self,
        limits: BudgetLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        spent: Usage | None = None,
        steps: int = 0,
        seconds: float = 0.0,
    ) -> None:
        self.limits = limits or BudgetLimits()
        self.usage = spent or Usage()
        self.steps = steps
        self._clock = clock
        self._began = clock() - seconds
        self._reserved = 0

    @property
    def seconds(self) -> float:
        """Spent so far."""
        return self._clock() - self._began

    @property
    def seconds_left(self) -> float | None:
        limit = self.limits.seconds
        return None if limit is None else max(0.0, limit - self.seconds)

    @contextmanager
    def step(self, worst_case_tokens: int) -> Iterator[StepCost]:
        """Pay for one step: raises ``BudgetExceeded`` if it does not fit, before anything is
        spent; else the caller writes what it used into the ``StepCost``."""
        self._check(worst_case_tokens)
        self._reserved += worst_case_tokens
        self.steps += 1
        cost = StepCost()
        try:
            yield cost
        finally:
            self._reserved -= worst_case_tokens
            self.usage = self.usage + cost.usage

    def _check(self, tokens: int) -> None:
        limits = self.limits
        if limits.steps is not None and self.steps >= limits.steps:
            raise BudgetExceeded(f"all {limits.steps} steps are spent", "StepLimitExceeded")
        if limits.seconds is not None and self.seconds >= limits.seconds:
            raise BudgetExceeded(f"all {limits.seconds:g} s are spent", "TimeLimitExceeded")
        spent = self.usage.total_tokens + self._reserved
        if limits.tokens is not None and spent + tokens > limits.tokens:
            raise BudgetExceeded(
                f"the next step may take {tokens} tokens; {max(0, limits.tokens - spent)} of "
                f"{limits.tokens} are left",
                "TokenLimitExceeded",
            )


class StepCost:
    """What one step really used; filled in by whoever made it."""

    usage: Usage

    def __init__(self) -> None:
        self.usage = Usage()
