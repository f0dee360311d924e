"""The way out of one container to its task's hosts: two containers beside it. Knows nothing of
tasks, and of what the proxy lets through.

The sandbox has no network but its own loopback, as any other: so it meets no gateway, no name
server and nothing of the host's, whatever the engine's networks are like. The relay shares that
loopback, opens the one port there that commands find, and hands the socket to the proxy, which
shares a file system in memory with the relay and is on a network of the engine's. From there on the
proxy accepts what the sandbox asks, and nothing stands between. Where either ends, so does the
other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from search.errors import SandboxError
from service.sandboxes.engine import Engine
from service.sandboxes.guest import PROXY_PORT
from service.sandboxes.way_out import EGRESS

LINK = "/dev/shm/link"
READY = f"until [ -e {LINK}.ready ]; do sleep 0.05; done"
MEMORY = 128 * 2**20
"""Bytes that each of the two may take."""


class ContainerWayOut:
    """Beside the sandbox of that name. Its parts are named after it."""

    def __init__(self, engine: Engine, sandbox: str) -> None:
        self.engine = engine
        self.sandbox = sandbox
        self.proxy, self.relay = f"{sandbox}-proxy", f"{sandbox}-relay"

    async def open(
        self,
        image: str,
        user: int,
        config: Mapping[str, Any],
        *,
        network: str,
        labels: Mapping[str, str],
        lifetime: float,
    ) -> None:
        """Returns once the port is open inside. Raises: ``SandboxError``."""
        accept = [LINK, json.dumps(config)]
        lend = ["lend", LINK, str(PROXY_PORT), str(lifetime)]
        relay = {"NetworkMode": f"container:{self.sandbox}", "IpcMode": f"container:{self.proxy}"}
        proxy = {"NetworkMode": network, "IpcMode": "shareable", "ShmSize": 2**20}
        await self._start(self.proxy, _body(image, user, labels, accept, proxy))
        await self._start(self.relay, _body(image, user, labels, lend, relay))
        done = await self.engine.execute(self.relay, ["sh", "-c", READY])
        if done.exit_code:
            raise SandboxError(f"no way out: {done.stderr.decode(errors='replace').strip()}")

    async def close(self) -> None:
        """Remove both; the relay first, because an engine keeps what others share."""
        await self.engine.remove(self.relay)
        await self.engine.remove(self.proxy)

    async def _start(self, name: str, body: Mapping[str, Any]) -> None:
        if not await self.engine.create(name, body):
            image = body["Image"]
            raise SandboxError(f"no image {image!r} (`egress_image`) at {self.engine.url}")
        await self.engine.start(name)


def sandbox_of(name: str) -> str:
    """The sandbox that a container stands beside."""
    return name.rpartition("-")[0]


def _body(
    image: str, user: int, labels: Mapping[str, str], words: list[str], others: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "Image": image,
        "Entrypoint": ["python3", "-I", "-S", "-c", EGRESS.read_text()],
        "Cmd": words,
        "User": f"{user}:{user}",
        "WorkingDir": "/",
        "Labels": dict(labels),
        "HostConfig": {
            "Memory": MEMORY,
            "MemorySwap": MEMORY,
            "NanoCpus": 10**9,
            "PidsLimit": 64,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Privileged": False,
            "ReadonlyRootfs": True,
            "LogConfig": {"Type": "none"},
            "RestartPolicy": {"Name": "no"},
            **others,
        },
    }
