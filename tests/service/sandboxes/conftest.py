from __future__ import annotations

import hashlib
import importlib.metadata
import re
import socket
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import stamina
from pydantic import SecretStr

from pilotfish import Task
from service.sandboxes.bubblewrap import BubblewrapProvider, BubblewrapSettings
from service.sandboxes.container import ContainerProvider, ContainerSettings
from service.sandboxes.deployment import DeploymentProvider, DeploymentSettings
from service.sandboxes.deployments import Daytona
from service.sandboxes.kubernetes import KubernetesProvider, KubernetesSettings
from service.sandboxes.swerex import (
    SwerexProvider,
    SwerexSandbox,
    SwerexServerSettings,
    SwerexSettings,
)
from tests.service.sandboxes import daytona_api, kubernetes_api, podman

MIB = 2**20
Provider = (
    BubblewrapProvider
    | SwerexProvider
    | ContainerProvider
    | DeploymentProvider
    | KubernetesProvider
)
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


@pytest.fixture(scope="session")
def rex_mounts(engine: podman.Podman) -> list[str]:
    """Arguments by which a container has swe-rex, as an image that it was installed in would."""
    folder = engine.folder / "rex"
    program = folder / "bin" / "swerex-remote"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nexec python3 -m swerex.server "$@"\n')
    program.chmod(0o755)
    theirs = engine("run", "--rm", "--network=none", podman.IMAGE, "python3", "-V").split()[1]
    major, minor = theirs.split(".")[:2]
    packages = Path(sysconfig.get_path("purelib"))
    if (int(major), int(minor)) != sys.version_info[:2]:
        packages = folder / "packages"
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--target", packages),
                *("--python-version", f"{major}.{minor}", "--only-binary=:all:"),
                f"swe-rex=={importlib.metadata.version('swe-rex')}",
            ],
            check=True,
        )
    return [
        *("-v", f"{folder}/bin:/rex:ro", "-v", f"{packages}:/packages:ro"),
        *("-e", "PYTHONPATH=/packages", "-e", "PATH=/rex:/usr/bin:/bin:/usr/sbin:/sbin"),
        "-e", "PYTHONDONTWRITEBYTECODE=1",
    ]  # fmt: skip


@pytest.fixture
def deployment_settings(
    engine: podman.Podman, rex_mounts: list[str], owner: str, monkeypatch: pytest.MonkeyPatch
) -> DeploymentSettings:
    for name, value in engine.environment.items():
        monkeypatch.setenv(name, value)
    options = {"container_runtime": "podman", "pull": "never", "docker_args": rex_mounts}
    return DeploymentSettings(
        kind="docker",
        options=options,
        secret=SecretStr(TOKEN),
        owner=owner,
        image_names={"host": podman.IMAGE},
    )


@pytest.fixture
async def deployments(deployment_settings: DeploymentSettings) -> AsyncIterator[DeploymentProvider]:
    async with DeploymentProvider(deployment_settings) as provider:
        yield provider


@pytest.fixture(scope="session")
def daytona() -> Iterator[tuple[daytona_api.Api, str]]:
    with daytona_api.api_server() as running:
        yield running


@pytest.fixture
def daytona_settings(
    daytona: tuple[daytona_api.Api, str], owner: str, monkeypatch: pytest.MonkeyPatch
) -> DeploymentSettings:
    monkeypatch.setenv("DAYTONA_API_KEY", daytona_api.KEY)
    monkeypatch.setattr(Daytona, "PAUSE", 0.05)
    return DeploymentSettings(
        kind="daytona", options={"api_url": daytona[1]}, secret=SecretStr(TOKEN), owner=owner
    )


@pytest.fixture
async def clouds(daytona_settings: DeploymentSettings) -> AsyncIterator[DeploymentProvider]:
    async with DeploymentProvider(daytona_settings) as provider:
        yield provider


@pytest.fixture(scope="session")
def cluster() -> Iterator[tuple[kubernetes_api.Api, str]]:
    with kubernetes_api.api_server() as running:
        yield running


@pytest.fixture
def pod_settings(
    cluster: tuple[kubernetes_api.Api, str], owner: str, tmp_path: Path
) -> KubernetesSettings:
    token = tmp_path / "token"
    token.write_text(f"{kubernetes_api.TOKEN}\n")
    # A label has room for so much of a test's name.
    name = hashlib.sha256(owner.encode()).hexdigest()[:32]
    return KubernetesSettings(
        url=cluster[1], namespace=kubernetes_api.NAMESPACE, token_file=token, owner=name
    )


@pytest.fixture
async def pods(pod_settings: KubernetesSettings) -> AsyncIterator[KubernetesProvider]:
    async with KubernetesProvider(pod_settings) as provider:
        yield provider


PROVIDERS = {
    "bubblewrap": "bubblewrap",
    "swerex": "swerex",
    "container": "containers",
    "deployment": "deployments",
    "daytona": "clouds",
    "kubernetes": "pods",
}
MARKS = {
    "container": pytest.mark.containers,
    "deployment": pytest.mark.containers,
    "kubernetes": pytest.mark.containers,
    "daytona": pytest.mark.slow,
}


@pytest.fixture(
    params=[pytest.param(name, marks=MARKS[name]) if name in MARKS else name for name in PROVIDERS]
)
def provider(request: pytest.FixtureRequest) -> Provider:
    chosen: Provider = request.getfixturevalue(PROVIDERS[request.param])
    return chosen


@pytest.fixture
async def sandbox(provider: Provider, task: Task) -> AsyncIterator[SwerexSandbox]:
    async with provider.start(task, labels={"run": "r1"}) as started:
        yield started
