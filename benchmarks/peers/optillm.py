"""optillm: its proxy with ``bon``, best of K by ratings of the same model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from benchmarks.peers.asking import Peer, at
from benchmarks.peers.environment import environment
from benchmarks.served import serving
from service.local.vllm_server import free_port

NEEDED = (
    *(
        "flask",
        "cerebras_cloud_sdk",
        "openai",
        "z3-solver<=4.15.4.0",
        "networkx",
        "numpy",
        "PyYAML",
    ),
    *("requests", "sympy", "scikit-learn", "tiktoken", "aiohttp", "math-verify"),
)
"""What its proxy imports. It says that it needs 36 packages, for approaches that nobody asks for
here, and pip had not reconciled them in seven minutes."""


@asynccontextmanager
async def bon(models: str, k: int, client: httpx.AsyncClient) -> AsyncIterator[Peer]:
    commands = environment("optillm", "optillm==0.4.*", NEEDED)
    port = free_port()
    command = [str(commands / "optillm"), "--approach", "bon", "--best-of-n", str(k)]
    command += ["--base-url", f"{models}/v1", "--port", str(port), "--host", "127.0.0.1"]
    env = {"OPENAI_API_KEY": "none", "OPTILLM_API_KEY": ""}
    async with serving("optillm", command, port, ready="/v1/models", env=env) as served:
        fields = {"model": "bon-policy"}
        yield Peer("optillm proxy, bon", at(served.url, client, fields))
