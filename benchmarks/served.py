"""Servers in processes of their own for the time of a measurement: the timed models, the service
over a Redis of its own, and any other. Knows nothing of what is measured."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from service.local.process import ServerProcess
from service.local.redis_server import redis_server
from service.local.vllm_server import free_port


class Served(NamedTuple):
    """A server that is up."""

    url: str
    pid: int


@asynccontextmanager
async def serving(
    name: str,
    command: Sequence[str],
    port: int,
    *,
    ready: str = "/health",
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Served]:
    """A server of HTTP, once ``ready`` is answered. Raises: ``SearchError`` with the end of its
    log."""
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        server = ServerProcess(name, command, log=log, env={**os.environ, **(env or {})})
        async with server, httpx.AsyncClient(trust_env=False) as client:

            async def answers() -> bool:
                try:
                    return (await client.get(url + ready)).status_code < 500
                except httpx.TransportError:
                    return False

            await server.ready(answers, timeout=120)
            yield Served(url, _listening(port))


@asynccontextmanager
async def timed_models(
    seconds: Sequence[float], scoring: float, *, chunks: int = 4
) -> AsyncIterator[str]:
    port = free_port()
    each = ",".join(map(str, seconds))
    arguments = [str(port), each, str(scoring), str(chunks)]
    command = [sys.executable, "-m", "benchmarks.timed_models", *arguments]
    async with serving("timed models", command, port, ready="/v1/models") as served:
        yield served.url


@asynccontextmanager
async def service(settings: Mapping[str, Any]) -> AsyncIterator[Served]:
    """As ``python -m service serve`` starts it, without a worker."""
    port = free_port()
    command = [sys.executable, "-m", "service", "serve", "--port", str(port)]
    async with redis_server() as redis_url:
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder, "settings.yaml")
            all_of = {"redis_url": redis_url, "worker": False, "log_level": "error", **settings}
            await asyncio.to_thread(config.write_text, yaml.safe_dump(all_of))
            env = {"PILOTFISH_CONFIG": str(config)}
            async with serving("the service", command, port, env=env) as served:
                yield served


def over_timed_models(url: str, **policy: Any) -> dict[str, Any]:
    """Settings of a service over those at ``url``: the judge is the critic."""
    return {
        "policies": {"policy": {"type": "openai", "url": f"{url}/v1", "model": "policy", **policy}},
        "critics": {"judge": {"type": "yes_no", "url": f"{url}/v1", "model": "judge"}},
    }


def _listening(port: int) -> int:
    """The process that listens there: a guardian stands between it and us."""
    wanted = f":{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    [inode] = {row[9] for row in rows if row[1].endswith(wanted) and row[3] == "0A"}
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if fd.readlink().name == f"socket:[{inode}]":
                return int(fd.parts[2])
        except OSError:
            continue
    raise ProcessLookupError(f"nobody listens on {port}")
