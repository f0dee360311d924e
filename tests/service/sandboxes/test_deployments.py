"""How deployments of swe-rex start, are found again and end; what is said where they do not."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import SecretStr

from pilotfish import Task
from search.errors import SandboxError, SandboxLost
from service.sandboxes.deployment import DeploymentProvider, DeploymentSettings
from service.settings import Settings
from tests.service.sandboxes.daytona_api import Api
from tests.service.sandboxes.podman import Podman
from tests.service.sandboxes.test_conformance import run


def there(engine: Podman, owner: str) -> list[str]:
    label = f"label=pilotfish.deployment={owner}"
    return engine("ps", "-a", "--filter", label, "--format={{.Names}}").split()


async def nobody(labels: Mapping[str, str]) -> bool:
    return False


@pytest.mark.parametrize(
    ("kind", "package"),
    [("modal", "modal"), ("fargate", "boto3"), ("daytona", "daytona_api_client")],
)
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
    async with deployments.start(task, labels={"run": "r1"}) as sandbox:
        await run(sandbox, "true")
        name = sandbox.id.rpartition(".")[2]
        await asyncio.to_thread(engine, "kill", name)
        with pytest.raises(SandboxLost):
            await sandbox.execute("true", action_id="a", timeout=20)
        assert there(engine, owner) in ([], [name])  # the library has the engine remove it
        assert await deployments.reap(nobody) in ({}, {sandbox.id: {"run": "r1"}})
    assert there(engine, owner) == []


# ---- Daytona, over the packages of its SDK


def names(api: Api, owner: str) -> list[str]:
    objects = [sandbox.object for sandbox in api.sandboxes.values()]
    return [o["name"] for o in objects if o["labels"]["pilotfish.deployment"] == owner]


@pytest.mark.parametrize(
    ("options", "key", "reason"),
    [
        ({"api_key": "k"}, "k", "api_key"),
        ({"port": 22}, "k", "port"),
        ({"sandbox": {"cpus": 2}}, "k", "have no cpus"),
        ({}, "", "DAYTONA_API_KEY"),
    ],
)
def test_daytona_settings_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], key: str, reason: str
) -> None:
    monkeypatch.setenv("DAYTONA_API_KEY", key)
    with pytest.raises(SandboxError, match=reason):
        DeploymentProvider(DeploymentSettings(kind="daytona", options=options))


async def test_daytona_is_told_limits_labels_and_lifetime(
    daytona: tuple[Api, str], owner: str, daytona_settings: DeploymentSettings, task: Task
) -> None:
    daytona_settings.options["sandbox"] = {"cpu": 2, "labels": {"team": "a"}}
    daytona_settings.lifetime = 601
    sized = task.model_copy(update={"memory": 3 * 2**30 - 1})
    async with DeploymentProvider(daytona_settings) as provider:
        async with provider.start(sized, labels={"run": "r1"}) as sandbox:
            await run(sandbox, "true")
        asked = daytona[0].created[-1]
        assert (asked["memory"], asked["cpu"], asked["public"]) == (3, 2, False)
        assert (asked["ttlMinutes"], asked["autoStopInterval"]) == (11, 11)
        assert asked["labels"].items() >= {"team": "a", "pilotfish.run": "r1"}.items()
        assert names(daytona[0], owner) == []
        with pytest.raises(SandboxError, match="exceeds maximum"):
            async with provider.start(task.model_copy(update={"memory": 2**34})):
                pass


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("no-such-image", "build_failed: pull access denied"),
        ("silent", "no server within 2 s"),
        ("without", "the server ended with 7: no python here"),
    ],
)
async def test_one_of_daytona_that_cannot_start_leaves_nothing(
    daytona: tuple[Api, str],
    owner: str,
    daytona_settings: DeploymentSettings,
    task: Task,
    image: str,
    reason: str,
) -> None:
    daytona_settings.start_timeout = 2
    async with DeploymentProvider(daytona_settings) as provider:
        with pytest.raises(SandboxError, match=reason):
            async with provider.start(task.model_copy(update={"image": image})):
                pass
    assert names(daytona[0], owner) == []


@pytest.mark.parametrize("state", ["pending_build", "creating", "started"])
async def test_a_cancelled_start_at_daytona_leaves_nothing(
    daytona: tuple[Api, str], owner: str, clouds: DeploymentProvider, task: Task, state: str
) -> None:
    async def start() -> None:
        async with clouds.start(task.model_copy(update={"setup": ["sleep 1000"]})):
            pass

    def states() -> list[str]:
        found = daytona[0].sandboxes.values()
        mine = [s.object for s in found if s.object["labels"]["pilotfish.deployment"] == owner]
        return [o["state"] for o in mine]

    starting = asyncio.ensure_future(start())
    order = ["pending_build", "creating", "started"]
    while not any(order.index(seen) >= order.index(state) for seen in states()):
        await asyncio.sleep(0.001)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert names(daytona[0], owner) == []


async def test_another_service_attaches_to_daytona_by_the_secret_alone(
    clouds: DeploymentProvider, daytona_settings: DeploymentSettings, task: Task
) -> None:
    async with clouds.start(task) as sandbox:
        first = await sandbox.execute("date +%N", action_id="a", timeout=20)
        async with DeploymentProvider(daytona_settings) as same:
            other = await same.attach(sandbox.id)
            assert other.workdir == sandbox.workdir
            again = await other.execute("date +%N", action_id="a", timeout=20)
            assert again.output == first.output
        settings = daytona_settings.model_copy(update={"secret": SecretStr("another")})
        async with DeploymentProvider(settings) as stranger:
            with pytest.raises(SandboxLost, match="cannot be had back"):
                await stranger.attach(sandbox.id)
    with pytest.raises(SandboxLost, match="that runs"):
        await clouds.attach(sandbox.id)


async def test_one_of_daytona_that_ended_is_lost_and_reaped_with_its_labels(
    daytona: tuple[Api, str], owner: str, clouds: DeploymentProvider, task: Task
) -> None:
    async with clouds.start(task, labels={"run": "r1"}) as sandbox, clouds.start(task) as other:
        daytona[0].kill(sandbox.id.rpartition(".")[2])
        with pytest.raises(SandboxLost, match="is gone"):
            await sandbox.execute("true", action_id="a", timeout=20)
        with pytest.raises(SandboxLost):
            await clouds.attach(sandbox.id)
        assert await clouds.reap(nobody) == {sandbox.id: {"run": "r1"}}
        await run(other, "true")
    assert names(daytona[0], owner) == []


@pytest.mark.containers
async def test_a_server_that_says_much_does_not_stand_still(
    deployments: DeploymentProvider, task: Task
) -> None:
    # It logs every request to pipes that the library does not read: 64 KiB, and it would wait.
    async with deployments.start(task) as sandbox:
        for _ in range(1200):
            await sandbox.server.is_alive(patience=60)
        await run(sandbox, "true")
