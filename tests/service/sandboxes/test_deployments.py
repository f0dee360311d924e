"""How deployments of swe-rex start, are found again and end; what is said where they do not."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping

import pytest
from pydantic import SecretStr

from pilotfish import Task
from search.errors import SandboxError, SandboxLost
from service.sandboxes.deployment import DeploymentProvider, DeploymentSettings
from service.settings import Settings
from tests.service.sandboxes.podman import Podman
from tests.service.sandboxes.test_conformance import run


def there(engine: Podman, owner: str) -> list[str]:
    label = f"label=pilotfish.deployment={owner}"
    return engine("ps", "-a", "--filter", label, "--format={{.Names}}").split()


@pytest.mark.parametrize(("kind", "package"), [("modal", "modal"), ("fargate", "boto3")])
def test_what_is_not_installed_is_said(
    monkeypatch: pytest.MonkeyPatch, kind: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    settings = Settings(sandboxes={"cloud": {"type": "deployment", "kind": kind}})
    cloud = settings.sandboxes["cloud"]
    assert isinstance(cloud, DeploymentSettings)
    with pytest.raises(SandboxError, match=rf"pip install 'pilotfish-service\[{kind}\]'"):
        DeploymentProvider(cloud)


def test_an_option_that_the_library_does_not_know() -> None:
    with pytest.raises(SandboxError, match="dokcer_args"):
        DeploymentProvider(DeploymentSettings(kind="docker", options={"dokcer_args": []}))


@pytest.mark.containers
async def test_one_that_cannot_start_leaves_nothing(
    engine: Podman, owner: str, deployments: DeploymentProvider, task: Task
) -> None:
    with pytest.raises(SandboxError, match="no-such-image"):
        async with deployments.start(task.model_copy(update={"image": "no-such-image"})):
            pass
    assert there(engine, owner) == []


@pytest.mark.containers
async def test_no_server_in_time_leaves_nothing(
    engine: Podman, owner: str, deployment_settings: DeploymentSettings, task: Task
) -> None:
    # It runs and never listens: the library would wait for the end of its output, that is for ever.
    program = engine.folder / "rex-silent"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o755)
    deployment_settings.options["docker_args"] = ["-v", f"{program}:/usr/bin/swerex-remote:ro"]
    deployment_settings.start_timeout = 3
    async with DeploymentProvider(deployment_settings) as provider:
        with pytest.raises(SandboxError, match="no server within 3 s"):
            async with provider.start(task):
                pass
    assert there(engine, owner) == []


@pytest.mark.containers
async def test_a_cancelled_start_leaves_nothing(
    engine: Podman, owner: str, deployments: DeploymentProvider, task: Task
) -> None:
    async def start() -> None:
        async with deployments.start(task.model_copy(update={"setup": ["sleep 1000"]})):
            pass

    starting = asyncio.ensure_future(start())
    while not await asyncio.to_thread(there, engine, owner):
        await asyncio.sleep(0.01)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert there(engine, owner) == []


@pytest.mark.containers
async def test_another_service_attaches_by_the_secret_alone(
    deployments: DeploymentProvider, deployment_settings: DeploymentSettings, task: Task
) -> None:
    async with deployments.start(task) as sandbox:
        first = await sandbox.execute("date +%N", action_id="a", timeout=20)
        token = sandbox.server._headers["X-API-Key"]  # type: ignore[attr-defined]
        assert token not in sandbox.id
        async with DeploymentProvider(deployment_settings) as same:
            other = await same.attach(sandbox.id)
            assert other.workdir == sandbox.workdir
            again = await other.execute("date +%N", action_id="a", timeout=20)
            assert again.output == first.output
        for secret in (SecretStr("another"), None):
            settings = deployment_settings.model_copy(update={"secret": secret})
            async with DeploymentProvider(settings) as stranger:
                with pytest.raises(SandboxLost, match="cannot be had back"):
                    await stranger.attach(sandbox.id)


@pytest.mark.containers
async def test_a_killed_one_is_lost_and_reaped_with_its_labels(
    engine: Podman, owner: str, deployments: DeploymentProvider, task: Task
) -> None:
    async def nobody(labels: Mapping[str, str]) -> bool:
        return False

    async with deployments.start(task, labels={"run": "r1"}) as sandbox:
        await run(sandbox, "true")
        name = sandbox.id.rpartition(".")[2]
        await asyncio.to_thread(engine, "kill", name)
        with pytest.raises(SandboxLost):
            await sandbox.execute("true", action_id="a", timeout=20)
        assert there(engine, owner) in ([], [name])  # the library has the engine remove it
        assert await deployments.reap(nobody) in ({}, {sandbox.id: {"run": "r1"}})
    assert there(engine, owner) == []


@pytest.mark.containers
async def test_a_server_that_says_much_does_not_stand_still(
    deployments: DeploymentProvider, task: Task
) -> None:
    # It logs every request to pipes that the library does not read: 64 KiB, and it would wait.
    async with deployments.start(task) as sandbox:
        for _ in range(1200):
            await sandbox.server.is_alive(patience=60)
        await run(sandbox, "true")
