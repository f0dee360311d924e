"""Hosts of a network of their own, as namespaces of this machine: real addresses, real links that
can be cut. Needs root. Knows nothing of what runs on them."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress


class Hosts:
    """``count`` hosts and this machine on one bridge. An async context manager: leaving it removes
    all of it."""

    def __init__(self, count: int) -> None:
        number = os.getpid()
        self._bridge = f"pf{number}"
        self.names = [f"pf{number}-{i}" for i in range(count)]
        self._net = f"10.{100 + number % 100}.{number // 100 % 250}"
        self.here = f"{self._net}.1"
        """This machine's address."""

    def address(self, i: int) -> str:
        return f"{self._net}.{i + 2}"

    def within(self, i: int) -> list[str]:
        """What to put before a command to run it there."""
        return ["ip", "netns", "exec", self.names[i]]

    async def __aenter__(self) -> Hosts:
        try:
            await _ip(f"link add {self._bridge} type bridge")
            await _ip(f"addr add {self.here}/24 dev {self._bridge}")
            await _ip(f"link set {self._bridge} up")
            for i, name in enumerate(self.names):
                await _ip(f"netns add {name}")
                await _ip(f"link add {self._link(i)} type veth peer name eth0 netns {name}")
                await _ip(f"link set {self._link(i)} master {self._bridge} up")
                await _ip(f"-n {name} addr add {self.address(i)}/24 dev eth0")
                await _ip(f"-n {name} link set eth0 up")
                await _ip(f"-n {name} link set lo up")
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in self.names:
            with suppress(OSError):
                await _ip(f"netns del {name}")
        with suppress(OSError):
            await _ip(f"link del {self._bridge}")

    async def cut(self, i: int) -> None:
        """Nothing reaches that host any more, nor leaves it."""
        await _ip(f"link set {self._link(i)} down")

    async def mend(self, i: int) -> None:
        await _ip(f"link set {self._link(i)} up")

    def _link(self, i: int) -> str:
        return f"{self._bridge}v{i}"


async def _ip(arguments: str) -> None:
    """Raises: ``OSError`` with what ip said."""
    process = await asyncio.create_subprocess_exec(
        "ip", *arguments.split(), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode:
        raise OSError(f"ip {arguments}: {said.decode().strip()}")
