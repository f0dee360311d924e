"""Many agents at once, each a session that grows: CPU and memory of the service's process, and
whether they stay the same."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks import served, usage
from benchmarks.steps_of_peers import seconds_of_candidates
from service.transport import Transport

TURNS = 8
"""Calls of a session before its agent begins another."""
EVERY = 5.0
"""Seconds between looks at the process."""


@dataclass
class Looks:
    """What a process used, and what had been answered, at times of one clock."""

    at: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)

    def look(self, pid: int, answered: int) -> None:
        self.at.append(time.monotonic())
        self.cpu.append(usage.cpu(pid))
        self.rss.append(usage.rss(pid))
        self.answered.append(answered)

    def cpu_ms_a_request(self, first: float, last: float) -> float | None:
        """Between two times, seconds from the first look."""
        within = [i for i, at in enumerate(self.at) if first <= at - self.at[0] <= last]
        if len(within) < 2:
            return None
        a, b = within[0], within[-1]
        count = self.answered[b] - self.answered[a]
        return round(1000 * (self.cpu[b] - self.cpu[a]) / count, 2) if count else None


async def many_sessions(
    sessions: int,
    seconds: float,
    *,
    k: int = 4,
    slowest: float = 20.0,
    scoring: float = 0.2,
    every: float = EVERY,
) -> dict[str, Any]:
    """``sessions`` at once for ``seconds``, each asking for its next step as it has one."""
    candidates = seconds_of_candidates(k, slowest / 2, slowest)
    counted: Counter[str] = Counter()
    looks = Looks()
    async with served.timed_models(candidates, scoring, chunks=20) as models:
        settings = served.over_timed_models(models)
        settings["concurrent_requests"] = 2 * sessions
        settings["policies"]["policy"]["max_connections"] = 2 * sessions
        limits = httpx.Limits(max_connections=None)
        async with (
            served.service(settings) as service,
            httpx.AsyncClient(timeout=300, transport=Transport(limits)) as client,
        ):
            await _step(client, service.url, "warm", [], k)
            empty = usage.rss(service.pid)
            agents = [
                asyncio.create_task(
                    _agent(client, service.url, number, slowest * number / sessions, k, counted)
                )
                for number in range(sessions)
            ]
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                looks.look(service.pid, counted["answered"])
                await asyncio.sleep(min(every, max(0.0, end - time.monotonic())))
            looks.look(service.pid, counted["answered"])
            for agent in agents:
                agent.cancel()
            await asyncio.gather(*agents, return_exceptions=True)
    return _report(looks, counted, sessions, seconds, empty) | {
        "k": k,
        "step_seconds": slowest + scoring,
    }


async def _agent(
    client: httpx.AsyncClient,
    url: str,
    number: int,
    after: float,
    k: int,
    counted: Counter[str],
) -> None:
    """Agents arrive spread over a step: latencies are fixed, and those that began together would
    ask together for ever."""
    await asyncio.sleep(after)
    for task in range(1_000_000):
        messages: list[dict[str, Any]] = []
        for turn in range(TURNS):
            messages.append({"role": "user", "content": f"{number}: go on. " + "word " * 100})
            name = f"agent{number}-task{task}"
            said = await _step(client, url, name, messages, k)
            if isinstance(said, str):
                counted[said] += 1
                break
            counted["answered"] += 1
            messages.append(said | {"content": f"{said['content']} {turn}"})


async def _step(
    client: httpx.AsyncClient, url: str, session: str, messages: list[dict[str, Any]], k: int
) -> dict[str, Any] | str:
    """The turn, or what failed."""
    body = {
        "model": "policy:lookahead",
        "messages": messages or [{"role": "user", "content": "go"}],
        "pilotfish": {"k": k, "session": session},
    }
    try:
        answer = await client.post(f"{url}/v1/chat/completions", json=body)
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}"
    if answer.status_code != 200:
        return f"{answer.status_code}: {answer.text[:200]}"
    return dict(answer.json()["choices"][0]["message"])


def _report(
    looks: Looks, counted: Counter[str], sessions: int, seconds: float, empty: int
) -> dict[str, Any]:
    """All after warm-up: a fifth of the time, in which agents arrive."""
    warm, minute = seconds / 5, min(60.0, seconds / 5)
    after = [i for i, at in enumerate(looks.at) if at - looks.at[0] >= warm]
    times = [looks.at[i] - looks.at[0] for i in after]
    memory = [looks.rss[i] / 1e6 for i in after]
    return {
        "sessions": sessions,
        "seconds": round(seconds, 1),
        "requests": counted["answered"],
        "failed": {what: count for what, count in counted.items() if what != "answered"},
        "cpu_ms_a_request": {
            "all": looks.cpu_ms_a_request(warm, seconds + 1),
            "first minute": looks.cpu_ms_a_request(warm, warm + minute),
            "last minute": looks.cpu_ms_a_request(seconds - minute, seconds + 1),
        },
        "memory_MB": {
            "empty": round(empty / 1e6, 1),
            "first": round(memory[0], 1),
            "last": round(memory[-1], 1),
            "most": round(max(memory), 1),
        },
        "kB_a_session": round((statistics.median(memory) - empty / 1e6) * 1000 / sessions, 1),
        "slope_MB_a_minute": round(60 * slope(times, memory), 3),
    }


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the straight line of least squares.

    >>> slope([0.0, 1.0, 2.0], [1.0, 3.0, 5.0])
    2.0
    """
    return statistics.linear_regression(xs, ys).slope if len(xs) > 1 else 0.0
