from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import stamina

from pilotfish import Task
from service.sandboxes.bubblewrap import BubblewrapProvider, BubblewrapSettings
from service.sandboxes.container import ContainerProvider, ContainerSettings
from service.sandboxes.swerex import (
    SwerexProvider,
    SwerexSandbox,
    SwerexServerSettings,
    SwerexSettings,
)
from tests.service.sandboxes import podman

MIB = 2**20
Provider = BubblewrapProvider | SwerexProvider | ContainerProvider
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


def container_settings(engine: podman.Podman, owner: str, **others: Any) -> ContainerSettings:
    return ContainerSettings(
        host=engine.url,
        owner=owner,
        pull="never",
        image_names={"host": podman.IMAGE},
        memory=256 * MIB,
        disk=16 * MIB,
        processes=64,
        **others,
    )


@pytest.fixture
def owner(request: pytest.FixtureRequest) -> str:
    """Containers of one test are no other one's."""
    return re.sub(r"[^\w.-]", "-", request.node.name)


@pytest.fixture
async def containers(engine: podman.Podman, owner: str) -> AsyncIterator[ContainerProvider]:
    async with ContainerProvider(container_settings(engine, owner)) as provider:
        yield provider


@pytest.fixture
async def jar(containers: ContainerProvider, task: Task) -> AsyncIterator[SwerexSandbox]:
    async with containers.start(task, labels={"run": "r1"}) as sandbox:
        yield sandbox


@pytest.fixture(
    params=["bubblewrap", "swerex", pytest.param("container", marks=pytest.mark.containers)]
)
def provider(request: pytest.FixtureRequest) -> Provider:
    name = "containers" if request.param == "container" else request.param
    chosen: Provider = request.getfixturevalue(name)
    return chosen


@pytest.fixture
async def sandbox(provider: Provider, task: Task) -> AsyncIterator[SwerexSandbox]:
    async with provider.start(task, labels={"run": "r1"}) as started:
        yield started
