"""How pods start, are found again and end; what is said where they do not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilotfish import Task
from search.errors import SandboxError, SandboxLost
from service.sandboxes.kubernetes import KubernetesProvider, KubernetesSettings
from tests.service.sandboxes.kubernetes_api import Api
from tests.service.sandboxes.test_conformance import run

pytestmark = pytest.mark.containers
ROOT = Path(__file__).parents[3]
Server = tuple[Api, str]


def of(api: Api, owner: str) -> list[str]:
    labelled = ((name, pod.object["metadata"]["labels"]) for name, pod in api.pods.items())
    return [name for name, labels in labelled if labels["pilotfish/sandbox"] == owner]


async def test_what_a_pod_is(cluster: Server, pod_settings: KubernetesSettings, task: Task) -> None:
    everything = pod_settings.model_copy(
        update={
            "node_selector": {"pool": "agents"},
            "tolerations": [{"key": "agents", "operator": "Exists", "effect": "NoSchedule"}],
            "pull_secrets": ["login"],
            "runtime_class": "gvisor",
            "service_account": "nobody",
            "memory": 2**28,
            "read_only": True,
        }
    )
    async with (
        KubernetesProvider(everything) as provider,
        provider.start(task, labels={"run": "r/1"}) as sandbox,
    ):
        pod = cluster[0].pods[sandbox.id].object
        assert await run(sandbox, "id -u") == "10001\n"
        assert await run(sandbox, "env | grep -c -i kubernetes || true") == "0\n"
        assert (await sandbox.execute("kill -TERM -1", action_id="k", timeout=20)).exit_code
        assert await run(sandbox, "echo on") == "on\n"
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    assert spec["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] == 14_400
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["resources"]["limits"]["memory"] == str(2**28)
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert spec["runtimeClassName"] == "gvisor"
    assert cluster[0].executed[-1] == "v5.channel.k8s.io"


async def test_a_long_command_and_a_long_file(pods: KubernetesProvider, task: Task) -> None:
    async with pods.start(task) as sandbox:
        assert await run(sandbox, "echo " + 100_000 * "x" + " | wc -c") == "100001\n"
        text = 300_000 * "0123456789"
        await sandbox.write("long", text)
        assert await sandbox.read("long") == text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_names": {"host": "no-such"}}, "ImagePullBackOff: Back-off pulling image"),
        ({"cpus": 64, "start_timeout": 1}, r"within 1 s: .*Insufficient cpu.*the cluster is full"),
        ({"labels": {"a": "no label"}}, r"422 .*metadata\.labels a"),
        ({"token_file": None}, "401 Unauthorized"),
    ],
)
async def test_one_that_cannot_start_says_why_and_leaves_nothing(
    cluster: Server,
    pod_settings: KubernetesSettings,
    task: Task,
    changes: dict[str, Any],
    reason: str,
) -> None:
    settings = pod_settings.model_copy(update=changes)
    async with KubernetesProvider(settings) as provider:
        with pytest.raises(SandboxError, match=reason):
            async with provider.start(task):
                pass
    assert of(cluster[0], settings.owner) == []


async def test_a_cancelled_start_leaves_nothing(
    cluster: Server, pods: KubernetesProvider, task: Task
) -> None:
    async def start() -> None:
        async with pods.start(task.model_copy(update={"setup": ["sleep 1000"]})):
            pass

    starting = asyncio.ensure_future(start())
    while not of(cluster[0], pods.settings.owner):
        await asyncio.sleep(0.01)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert of(cluster[0], pods.settings.owner) == []


async def test_an_evicted_one_is_lost_and_reaped_with_its_labels(
    cluster: Server, pods: KubernetesProvider, task: Task
) -> None:
    async with pods.start(task, labels={"run": "r1"}) as sandbox:
        evict = cluster[0].pods[sandbox.id].fail
        await asyncio.to_thread(evict, "Evicted", "Pod ephemeral local storage usage exceeds")
        with pytest.raises(SandboxLost, match="Evicted: Pod ephemeral"):
            await sandbox.execute("true", action_id="a", timeout=20)
        with pytest.raises(SandboxLost, match="Evicted"):
            await pods.attach(sandbox.id)
        assert await pods.reap() == {sandbox.id: {"run": "r1"}}


async def test_one_killed_while_a_command_runs_is_lost(
    cluster: Server, pods: KubernetesProvider, task: Task
) -> None:
    async with pods.start(task) as sandbox:
        running = asyncio.ensure_future(
            sandbox.execute("touch begun; sleep 1000", action_id="a", timeout=2000)
        )
        await run(sandbox, "until [ -e begun ]; do sleep 0.02; done")
        await asyncio.to_thread(cluster[0].pods[sandbox.id].kill)
        with pytest.raises(SandboxLost, match="OOMKilled"):
            await running


async def test_no_answer(pod_settings: KubernetesSettings, task: Task) -> None:
    settings = pod_settings.model_copy(update={"url": "http://127.0.0.1:1", "away": 0.2})
    async with KubernetesProvider(settings) as provider:
        with pytest.raises(SandboxError, match="does not answer"):
            async with provider.start(task):
                pass
        assert await provider.reap() == {}


def test_outside_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(SandboxError, match="set `url`"):
        KubernetesProvider()


def test_the_network_policy_closes_every_pod_of_ours() -> None:
    folder = ROOT / "deploy" / "kubernetes"
    policy = yaml.safe_load((folder / "sandbox-network-policy.yaml").read_text())
    [needed] = policy["spec"]["podSelector"]["matchExpressions"]
    assert needed == {"key": "pilotfish/sandbox", "operator": "Exists"}
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy["spec"]
    assert "ingress" not in policy["spec"]
