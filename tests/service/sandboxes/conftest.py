from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import stamina

from pilotfish import Task
from service.sandboxes.bubblewrap import BubblewrapProvider, BubblewrapSettings
from service.sandboxes.swerex import (
    SwerexProvider,
    SwerexSandbox,
    SwerexServerSettings,
    SwerexSettings,
)

MIB = 2**20
TOKEN = "secret"


@pytest.fixture
def task() -> Task:
    return Task(id="t", statement="s", image="host", files={"module/a.py": "print('hello')\n"})


@pytest.fixture
def bubblewrap(tmp_path: Path) -> BubblewrapProvider:
    settings = BubblewrapSettings(
        state_dir=tmp_path / "state", memory=256 * MIB, disk=16 * MIB, processes=64, files=5000
    )
    return BubblewrapProvider(settings)


@pytest.fixture
async def box(bubblewrap: BubblewrapProvider, task: Task) -> AsyncIterator[SwerexSandbox]:
    async with bubblewrap.start(task) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def rex_url() -> Iterator[str]:
    """A stock SWE-ReX server, as a plain process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "swerex.server"),
            *("--host", "127.0.0.1", "--port", str(port), "--auth-token", TOKEN),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for attempt in stamina.retry_context(on=httpx.TransportError, attempts=None, timeout=60):
            with attempt:
                httpx.get(f"{url}/is_alive", headers={"X-API-Key": TOKEN}, timeout=5)
        yield url
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
async def swerex(rex_url: str, tmp_path: Path) -> AsyncIterator[SwerexProvider]:
    settings = SwerexSettings(
        servers=[SwerexServerSettings(url=rex_url, token=TOKEN)], folder=str(tmp_path / "rex")
    )
    async with SwerexProvider(settings) as provider:
        yield provider


@pytest.fixture(params=["bubblewrap", "swerex"])
def provider(request: pytest.FixtureRequest) -> BubblewrapProvider | SwerexProvider:
    chosen: BubblewrapProvider | SwerexProvider = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
async def sandbox(
    provider: BubblewrapProvider | SwerexProvider, task: Task
) -> AsyncIterator[SwerexSandbox]:
    async with provider.start(task, labels={"run": "r1"}) as started:
        yield started
