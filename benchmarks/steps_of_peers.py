"""One step of best of K over models of fixed latency, ours and others': its time beside the least
that it can take, what of the request and the answer survives, and what one failing sample does."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx

from benchmarks import served
from benchmarks.passing_on import spread_of
from benchmarks.peers import its, optillm
from benchmarks.peers.asking import Failed, Peer, at
from benchmarks.peers.one_by_one import one_by_one

K = 8
FASTEST, SLOWEST, SCORING = 0.6, 1.3, 0.1
"""Seconds: candidates are spread evenly from the one to the other."""
TOOL = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}
TEMPERATURE = 0.7


def seconds_of_candidates(k: int = K, fastest: float = FASTEST, slowest: float = SLOWEST) -> Any:
    return [round(fastest + (slowest - fastest) * i / max(k - 1, 1), 4) for i in range(k)]


def history(step: int) -> list[dict[str, Any]]:
    """Of a conversation that grows by a turn a step."""
    said: list[dict[str, Any]] = [{"role": "user", "content": "List all files of the project."}]
    for turn in range(step):
        said.append({"role": "assistant", "content": f"ls part{turn}"})
        said.append({"role": "user", "content": f"sums.py of part {turn}"})
    return said


async def compared(
    k: int = K,
    candidates: Sequence[float] | None = None,
    scoring: float = SCORING,
    *,
    steps: int = 5,
    others: bool = True,
) -> dict[str, Any]:
    """All peers on the same models, one after the other; without ``others``, which need packages of
    their own, ours and what is written here."""
    candidates = candidates or seconds_of_candidates(k)
    rows = []
    async with (
        served.timed_models(candidates, scoring) as models,
        httpx.AsyncClient(timeout=120) as client,
        _peers(models, k, client, others) as peers,
    ):
        for peer in peers:
            row = {"peer": peer.name} | await _measured(peer, models, client, steps)
            row["ratio"] = {
                name: round(value / (max(candidates) + scoring), 3)
                for name, value in row["seconds"].items()
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    return {"k": k, "candidates": list(candidates), "scoring": scoring, "peers": rows}


@asynccontextmanager
async def _peers(
    models: str, k: int, client: httpx.AsyncClient, others: bool
) -> AsyncIterator[list[Peer]]:
    async with AsyncExitStack() as stack:
        settings = served.over_timed_models(models)
        each = served.over_timed_models(models, n=False)["policies"]["policy"]
        settings["policies"]["each"] = each
        ours = await stack.enter_async_context(served.service(settings))
        peers = []
        for name, told in (("policy", "one request of n=K"), ("each", "K requests")):
            fields = {"model": f"{name}:lookahead", "pilotfish": {"k": k}}
            peers.append(Peer(f"Pilotfish, {told}", at(ours.url, client, fields)))
        peers.append(one_by_one(models, k, client))
        if others:
            peers.append(await stack.enter_async_context(its.gateway(models, k, client)))
            peers.append(await stack.enter_async_context(its.best_of_n(models, k)))
            peers.append(await stack.enter_async_context(optillm.bon(models, k, client)))
        yield peers


async def _measured(
    peer: Peer, models: str, client: httpx.AsyncClient, steps: int
) -> dict[str, Any]:
    seconds = []
    for step in range(-1, steps):  # the first warms up
        await client.post(f"{models}/reset", json={})
        began = time.perf_counter()
        await peer.ask({"messages": history(max(step, 0))})
        if step >= 0:
            seconds.append(time.perf_counter() - began)
    return {
        "seconds": spread_of(seconds),
        "survives": await _surviving(peer, models, client),
        "one sample fails": await _with_a_failure(peer, models, client, statistics.median(seconds)),
    }


async def _surviving(peer: Peer, models: str, client: httpx.AsyncClient) -> dict[str, bool]:
    """Of a request with tools, what reaches the policy and what comes back."""
    await client.post(f"{models}/reset", json={})
    body = {"messages": history(1), "tools": [TOOL], "temperature": TEMPERATURE, "max_tokens": 99}
    try:
        [choice, *_] = (await peer.ask(body))["choices"]
    except Failed:
        choice = {}
    seen = (await client.get(f"{models}/seen")).json()
    return {
        "temperature": all(one["temperature"] == TEMPERATURE for one in seen),
        "max_tokens": all(one["max_tokens"] == 99 for one in seen),
        "tools": all(one["tools"] for one in seen),
        "tool_calls": bool((choice.get("message") or {}).get("tool_calls")),
        "finish_reason": choice.get("finish_reason") == "tool_calls",
    }


async def _with_a_failure(peer: Peer, models: str, client: httpx.AsyncClient, usual: float) -> str:
    """What becomes of a step whose fourth candidate, where it has a request, is an error."""
    await client.post(f"{models}/reset", json={"fail": 3})
    began = time.perf_counter()
    try:
        await peer.ask({"messages": history(1)})
    except Failed as error:
        return f"the step fails: {error}"
    finally:
        seconds = time.perf_counter() - began
        await client.post(f"{models}/reset", json={})
    return f"answered, in {seconds / usual:.1f} times the time"
