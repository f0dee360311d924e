"""What the prefix caches of several servers are worth, where the calls of a session go to the same
ones, and where they go to any.

    make bench-affinity

Sessions of thirty turns are replayed beside each other through the service, over two policies and
two critics on real vLLM, whose caches together hold them once, but not twice. The share of prompt
tokens that were found in a cache is by vLLM's own counters.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from examples.bugfix import SYSTEM_PROMPT
from examples.bugfix.collect import MAX_MODEL_LEN
from examples.bugfix.experiment import CHECKPOINTS
from service.app import create_app
from service.local.redis_server import redis_server
from service.local.vllm_server import VllmServer, VllmSettings, vllm_server
from service.sandboxes.bubblewrap import BubblewrapSettings
from service.settings import EndpointPolicy, Settings, VllmCriticSettings

Messages = list[dict[str, Any]]
BLOCK = 32
"""Tokens of a cache's block, vLLM's least on the CPU."""
MAX_TOKENS = 16


class Servers(NamedTuple):
    policies: list[VllmServer]
    critics: list[VllmServer]


@asynccontextmanager
async def servers(count: int, blocks: int | None) -> AsyncIterator[Servers]:
    """``count`` policies and as many critics, each with a cache of ``blocks`` blocks."""
    common: dict[str, Any] = {"max_model_len": MAX_MODEL_LEN, "eager": True, "cpu_block": BLOCK}
    if blocks is not None:
        common["arguments"] = ["--num-gpu-blocks-override", str(blocks)]
    policy = VllmSettings(model=str(CHECKPOINTS / "policy"), name="policy", **common)
    critic = VllmSettings(
        model=str(CHECKPOINTS / "critic"), name="critic", runner="pooling", **common
    )
    async with AsyncExitStack() as stack:
        async with asyncio.TaskGroup() as group:
            starting = [
                group.create_task(stack.enter_async_context(vllm_server(settings)))
                for settings in (*[policy] * count, *[critic] * count)
            ]
        opened = [task.result() for task in starting]
        yield Servers(opened[:count], opened[count:])


@asynccontextmanager
async def service(over: Servers) -> AsyncIterator[httpx.AsyncClient]:
    """The service over these servers, in this process."""
    first, *others = over.policies
    critic, *critics = over.critics
    async with redis_server(None) as redis_url:
        settings = Settings(
            policies={
                "policy": EndpointPolicy(
                    url=f"{first.url}/v1",
                    replicas=[f"{server.url}/v1" for server in others],
                    model=first.model,
                )
            },
            critics={
                "critic": VllmCriticSettings(
                    type="vllm",
                    url=critic.url,
                    replicas=[server.url for server in critics],
                    model=critic.model,
                    checkpoint=str(CHECKPOINTS / "critic"),
                )
            },
            sandboxes={"bubblewrap": BubblewrapSettings()},
            redis_url=redis_url,
            worker=False,
        )
        app = create_app(settings)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=transport, base_url="http://service", timeout=300
            ) as client,
        ):
            yield client


def recorded(turns: int) -> Messages:
    """A session as it would be replayed, with a first message that no other session has."""
    history: Messages = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": f"{uuid.uuid4().hex}: `total([1, 2])` gives 2, not 3. " * 8},
    ]
    for turn in range(turns):
        shown = f"    result += item  # {turn}\n" * 3
        history += [
            {"role": "assistant", "content": f"```bash\nsed -n '{turn},{turn + 2}p' sums.py\n```"},
            {"role": "user", "content": f"<returncode>0</returncode>\n<output>\n{shown}</output>"},
        ]
    return history


async def replay(
    client: httpx.AsyncClient, sessions: int, turns: int, k: int, *, affine: bool
) -> None:
    """All sessions beside each other, a turn at a time. Without affinity each call is a session of
    its own to the service."""

    async def one() -> None:
        session, history = uuid.uuid4().hex, recorded(turns)
        for turn in range(turns):
            answer = await client.post(
                f"/sessions/{session if affine else uuid.uuid4().hex}/v1/chat/completions",
                json={
                    "model": "policy",
                    "messages": history[: 2 + 2 * turn],
                    "max_tokens": MAX_TOKENS,
                    "pilotfish": {"k": k},
                },
            )
            answer.raise_for_status()
            if answer.json()["pilotfish"]["degraded"]:
                raise SystemExit(f"a degraded answer: {answer.json()['pilotfish']['notes']}")

    await asyncio.gather(*(one() for _ in range(sessions)))


async def counted(group: list[VllmServer]) -> tuple[float, float]:
    """Prompt tokens that were looked for in the caches of these servers, and found."""
    sums = {"queries": 0.0, "hits": 0.0}
    async with httpx.AsyncClient() as client:
        for server in group:
            for row in (await client.get(f"{server.url}/metrics")).text.splitlines():
                for name in sums:
                    if row.startswith(f"vllm:prefix_cache_{name}_total"):
                        sums[name] += float(row.rsplit(" ", 1)[1])
    return sums["queries"], sums["hits"]


async def measure(
    over: Servers, client: httpx.AsyncClient, sessions: int, turns: int, k: int
) -> dict[str, dict[str, float]]:
    """The share of tokens found, by policy and critic, with and without affinity."""
    found: dict[str, dict[str, float]] = {}
    for affine in (True, False):
        before = [await counted(group) for group in over]
        began = time.perf_counter()
        await replay(client, sessions, turns, k, affine=affine)
        seconds = time.perf_counter() - began
        after = [await counted(group) for group in over]
        shares = [
            (hits - known) / (queries - asked)
            for (queries, hits), (asked, known) in zip(after, before, strict=True)
        ]
        name = "affinity" if affine else "any server"
        print(f"{name}: {seconds:.0f} s", flush=True)
        found[name] = {"policy": shares[0], "critic": shares[1], "seconds": seconds}
    return found


async def _main(options: argparse.Namespace) -> None:
    print("starting four vLLM servers...", flush=True)
    async with (
        servers(2, options.blocks) as over,
        service(over) as client,
    ):
        found = await measure(over, client, options.sessions, options.turns, options.k)
    print(f"{'':12} {'policy':>8} {'critic':>8} {'seconds':>8}")
    for name, row in found.items():
        print(f"{name:12} {row['policy']:8.1%} {row['critic']:8.1%} {row['seconds']:8.1f}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    kept = {"sessions": options.sessions, "turns": options.turns, "k": options.k, **found}
    options.out.write_text(json.dumps(kept | {"blocks": options.blocks}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Prefix caches of two servers each.")
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("-k", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=400, help="of each server's cache")
    parser.add_argument("--out", type=Path, default=Path("build/bench/affinity.json"))
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
