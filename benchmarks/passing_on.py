"""What the service costs where it only passes on: requests to a model, direct and through it, in
turn. Knows nothing of what the model is."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any

import httpx

from service.transport import Transport

Bodies = Sequence[dict[str, Any]]
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"model": "policy:plain"},
    "K=1": {"model": "policy", "pilotfish": {"k": 1}},
    "K=1, streamed": {"model": "policy", "pilotfish": {"k": 1}, "stream": True},
}
"""How one candidate is asked for."""


class Comparison:
    """The same requests, to the policy at ``direct`` and through the service at ``through``."""

    def __init__(self, direct: str, through: str, bodies: Bodies) -> None:
        self._direct, self._through, self._bodies = direct, through, bodies
        self._http = httpx.AsyncClient(
            timeout=300, transport=Transport(httpx.Limits(max_connections=None))
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def throughput(self, way: str, *, concurrent: int, rounds: int) -> dict[str, Any]:
        """Requests a second with so many at once, and its ratio to the direct one, by round."""
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for number in range(-1, rounds):  # the first warms up
            for through in _in_turn(number):
                took = await self._all(way, through, concurrent)
                if number >= 0:
                    seconds[through].append(took)
        ratios = [a / b for a, b in zip(seconds[False], seconds[True], strict=True)]
        count = len(self._bodies)
        return {
            "concurrent": concurrent,
            "direct_a_second": round(count / statistics.median(seconds[False]), 1),
            "through_a_second": round(count / statistics.median(seconds[True]), 1),
            "ratio": spread_of(ratios),
        }

    async def latency(self, way: str, *, rounds: int) -> dict[str, Any]:
        """Median seconds of one request at a time, direct and through, by round."""
        ratios, differences, medians = [], [], []
        for number in range(-1, rounds):
            seconds: dict[bool, list[float]] = {True: [], False: []}
            for at, body in enumerate(self._bodies):
                for through in _in_turn(at):
                    seconds[through].append(await self._ask(way, through, body))
            direct, through_it = (statistics.median(seconds[one]) for one in (False, True))
            if number >= 0:
                medians.append(direct)
                ratios.append(through_it / direct)
                differences.append(1000 * (through_it - direct))
        return {
            "direct_ms": round(1000 * statistics.median(medians), 2),
            "ratio": spread_of(ratios),
            "difference_ms": spread_of(differences),
        }

    async def _all(self, way: str, through: bool, concurrent: int) -> float:
        waiting = iter(self._bodies)

        async def one_after_another() -> None:
            for body in waiting:
                await self._ask(way, through, body)

        began = time.perf_counter()
        await asyncio.gather(*(one_after_another() for _ in range(concurrent)))
        return time.perf_counter() - began

    async def _ask(self, way: str, through: bool, body: dict[str, Any]) -> float:
        """Seconds until the whole answer is there."""
        asked = WAYS[way]
        if not through:
            stream = {"stream": True} if asked.get("stream") else {}
            asked = {"model": "policy"} | stream
        url = self._through if through else self._direct
        began = time.perf_counter()
        answer = await self._http.post(f"{url}/v1/chat/completions", json=body | asked)
        answer.raise_for_status()
        return time.perf_counter() - began


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """
    >>> spread_of([1.0, 3.0, 2.0])
    {'median': 2.0, 'least': 1.0, 'most': 3.0}
    """
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def _in_turn(number: int) -> tuple[bool, bool]:
    """Which comes first changes: what comes second finds caches warm."""
    return (False, True) if number % 2 else (True, False)


def bodies_of(histories: Sequence[list[dict[str, Any]]], count: int, **fields: Any) -> Bodies:
    """``count`` requests, each with a seed of its own, so that both ways generate the same."""
    given = itertools.islice(itertools.cycle(histories), count)
    return [{"messages": history, "seed": seed, **fields} for seed, history in enumerate(given)]
