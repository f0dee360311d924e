"""its_hub: its gateway, which has self-consistency alone (K calls, a majority, no scoring), and its
library's best of K with a judge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from benchmarks.peers.asking import Body, Failed, Peer, at
from benchmarks.peers.environment import environment
from benchmarks.served import serving
from service.local.vllm_server import free_port

REQUIREMENT = "its-hub[iaas]==1.2.*"
SCRIPT = Path(__file__).with_name("its_best_of_n.py")


@asynccontextmanager
async def gateway(models: str, k: int, client: httpx.AsyncClient) -> AsyncIterator[Peer]:
    commands = environment("its", REQUIREMENT)
    port = free_port()
    command = [str(commands / "its-iaas"), "--port", str(port)]
    async with serving("its_hub", command, port, ready="/v1/models") as served:
        told = {
            "endpoint": f"{models}/v1",
            "api_key": "none",
            "model": "policy",
            "alg": "self-consistency",
            "regex_patterns": [r"(\d)$"],
            "tool_vote": "tool_name",
            "budget": k,
        }
        (await client.post(f"{served.url}/configure", json=told)).raise_for_status()
        fields = {"model": "policy", "budget": k}
        yield Peer("its_hub gateway, self-consistency", at(served.url, client, fields))


@asynccontextmanager
async def best_of_n(models: str, k: int) -> AsyncIterator[Peer]:
    commands = environment("its", REQUIREMENT)
    process = await asyncio.create_subprocess_exec(
        *(str(commands / "python"), str(SCRIPT), f"{models}/v1", str(k)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    asked, answered = process.stdin, process.stdout

    async def ask(body: Body) -> Body:
        asked.write(json.dumps(body).encode() + b"\n")
        line = await answered.readline()
        said: Body = json.loads(line or b'{"error": "it ended"}')
        if "error" in said:
            raise Failed(said["error"])
        return said

    try:
        await answered.readline()  # it has imported all
        yield Peer("its_hub library, best of K with a judge", ask)
    finally:
        asked.close()
        await process.wait()
