"""Starting and ending vLLM, and what the service relies on in what it answers."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForSequenceClassification

from search.errors import SearchError
from service.local import vllm_server as module
from service.local.process import ProcessId
from service.local.vllm_server import (
    VllmServer,
    VllmSettings,
    arguments,
    environment,
    find_vllm,
    vllm_server,
)
from tests.tiny import causal_lm, tokenizer

ROOT = Path(__file__).parents[3]
HELLO = [{"role": "user", "content": "hello"}]


def interpreter(folder: Path, text: str) -> Path:
    """A program in the place of an interpreter."""
    folder.mkdir(parents=True)
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_ordinary_build(tmp_path: Path) -> None:
    python = interpreter(tmp_path / "bin", "echo vllm 0.32.0")
    (tmp_path / "bin" / "vllm").touch()
    found = find_vllm(python)
    assert found.command == [str(tmp_path / "bin" / "vllm"), "serve"]
    assert not found.cpu
    given = arguments(VllmSettings(model="org/name"), found, "name", 8000)
    assert given[0] == "org/name"
    assert "--gpu-memory-utilization" in given
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment(VllmSettings(model="org/name"), found)


def test_the_build_for_the_cpu_has_a_command_that_does_not_work(tmp_path: Path) -> None:
    python = interpreter(tmp_path / "bin", "echo vllm-cpu 0.32.0")
    (tmp_path / "bin" / "vllm").touch()
    found = find_vllm(python)
    assert found.command == [str(python), "-m", "vllm.entrypoints.openai.api_server"]
    assert found.cpu
    settings = VllmSettings(model=str(tmp_path), cpu_cache_gib=3, cpu_threads=7)
    assert arguments(settings, found, "name", 8000)[:2] == ["--model", str(tmp_path)]
    assert environment(settings, found)["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert environment(settings, found)["OMP_NUM_THREADS"] == "7"
    assert environment(settings, found)["HF_HUB_OFFLINE"] == "1"


def test_without_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SearchError, match=r"no vLLM in .*pip install vllm"):
        find_vllm(tmp_path / "nothing")
    monkeypatch.setattr(module, "ENVIRONMENT", tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(interpreter(tmp_path / "x", "true")))
    with pytest.raises(SearchError, match="no vLLM here"):
        find_vllm()


async def test_one_that_does_not_start(tmp_path: Path) -> None:
    told = 'case "$1" in -c) echo vllm-cpu 0.32.0;; *) echo the reason; exit 3;; esac'
    settings = VllmSettings(model="m", python=interpreter(tmp_path / "bin", told))
    with pytest.raises(SearchError, match=r"vLLM \(m\) ended with code 3\n.*\nthe reason"):
        async with vllm_server(settings):
            pass


# ---- the real one


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    causal_lm(folder / "policy")
    config = Qwen3Config.from_pretrained(folder / "policy")
    config.num_labels = 1
    config.problem_type = "regression"
    torch.manual_seed(1)
    Qwen3ForSequenceClassification(config).eval().save_pretrained(folder / "critic")
    tokenizer().save_pretrained(folder / "critic")
    return folder


def settings_of(models: Path, runner: str) -> VllmSettings:
    name = {"generate": "policy", "pooling": "critic"}[runner]
    return VllmSettings.model_validate(
        {"model": str(models / name), "name": name, "runner": runner, "eager": True}
    )


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=120, trust_env=False) as opened:
        yield opened


async def running(client: httpx.AsyncClient, server: VllmServer) -> int:
    metrics = (await client.get(f"{server.url}/metrics")).text
    lines = [line for line in metrics.splitlines() if line.startswith("vllm:num_requests_running")]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


def family(first: int) -> list[ProcessId]:
    """All processes that descend from this one."""
    found, parents = [], [first]
    while parents:
        path = Path(f"/proc/{parents.pop()}/task")
        for task in path.iterdir() if path.exists() else []:
            children = [int(pid) for pid in (task / "children").read_text().split()]
            parents += children
            found += [ProcessId.of(pid) for pid in children]
    return found


@pytest.mark.vllm
async def test_a_policy(models: Path, client: httpx.AsyncClient) -> None:
    others = family(os.getpid())
    async with vllm_server(settings_of(models, "generate")) as server:
        processes = [process for process in family(os.getpid()) if process not in others]
        assert len(processes) >= 3
        chat = f"{server.url}/v1/chat/completions"
        await streams_candidates(client, chat)
        await refuses_what_does_not_fit(client, chat)
        await stops_when_nobody_listens(client, server, chat)
    assert not any(process.alive for process in processes)


async def streams_candidates(client: httpx.AsyncClient, chat: str) -> None:
    """Each event is of one candidate; its last one has the reason; usage comes at the end."""
    body = {
        "model": "policy",
        "messages": HELLO,
        "n": 4,
        "max_tokens": 6,
        "temperature": 1.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": True,
        "return_token_ids": True,
    }
    counts, reasons, usage = [0, 0, 0, 0], {}, {}
    async with client.stream("POST", chat, json=body) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event: dict[str, Any] = json.loads(line.removeprefix("data: "))
            usage = event.get("usage") or usage
            assert len(event["choices"]) <= 1
            for choice in event["choices"]:
                tokens = choice.get("token_ids") or []
                logprobs = (choice.get("logprobs") or {}).get("content") or []
                assert len(tokens) == len(logprobs)
                assert all(entry["logprob"] <= 0 for entry in logprobs)
                counts[choice["index"]] += len(tokens)
                if choice["finish_reason"]:
                    reasons[choice["index"]] = choice["finish_reason"]
    assert set(reasons) == {0, 1, 2, 3}
    assert set(reasons.values()) <= {"length", "stop"}
    assert usage["completion_tokens"] == sum(counts)


async def refuses_what_does_not_fit(client: httpx.AsyncClient, chat: str) -> None:
    messages = [{"role": "user", "content": "hello " * 3000}]
    for stream in (False, True):
        body = {"model": "policy", "messages": messages, "stream": stream}
        response = await client.post(chat, json=body)
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == "input_tokens"
        assert "maximum context length is 2048 tokens" in error["message"]


async def stops_when_nobody_listens(
    client: httpx.AsyncClient, server: VllmServer, chat: str
) -> None:
    body = {
        "model": "policy",
        "messages": HELLO,
        "n": 4,
        "max_tokens": 2000,
        "ignore_eos": True,
        "stream": True,
    }
    async with client.stream("POST", chat, json=body) as response:
        async for _ in response.aiter_lines():
            if await running(client, server) == 4:
                break
    for _ in range(100):
        if await running(client, server) == 0:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it goes on decoding for nobody")


@pytest.mark.vllm
async def test_a_critic(models: Path, client: httpx.AsyncClient) -> None:
    async with vllm_server(settings_of(models, "pooling")) as server:
        generator = random.Random(0)
        prefix = [generator.randrange(10, 250) for _ in range(600)]
        prompts = [[*prefix, *(generator.randrange(10, 250) for _ in range(20))] for _ in range(4)]
        before = await hits(client, server)
        assert len(await score(client, server, [prefix])) == 1
        scores = await score(client, server, prompts)
        assert await hits(client, server) - before >= 4 * 576
        raw = await score(client, server, prompts, use_activation=False)
        assert scores == pytest.approx(raw, abs=1e-6)
        assert scores == pytest.approx(expected(models / "critic", prompts), abs=0.02)
        response = await client.post(
            f"{server.url}/classify", json={"model": "critic", "input": [[5] * 3000]}
        )
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "input_tokens"


async def score(
    client: httpx.AsyncClient, server: VllmServer, prompts: list[list[int]], **more: Any
) -> list[float]:
    body = {"model": "critic", "input": prompts, **more}
    data = (await client.post(f"{server.url}/classify", json=body)).json()["data"]
    assert [item["index"] for item in data] == list(range(len(prompts)))
    return [item["probs"][0] for item in data]


async def hits(client: httpx.AsyncClient, server: VllmServer) -> int:
    metrics = (await client.get(f"{server.url}/metrics")).text
    name = "vllm:prefix_cache_hits_total"
    return int(float(next(x for x in metrics.splitlines() if x.startswith(name)).split()[-1]))


def expected(folder: Path, prompts: list[list[int]]) -> list[float]:
    """The same by torch: the head at the last token."""
    model = Qwen3ForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return [float(model(torch.tensor([prompt])).logits[0, 0]) for prompt in prompts]


PARENT = """
import asyncio, sys
from service.local.vllm_server import VllmSettings, vllm_server

async def main():
    async with vllm_server(VllmSettings(model=sys.argv[1], eager=True)):
        pass

asyncio.run(main())
"""


@pytest.mark.vllm
async def test_nothing_is_left_of_it_when_we_are_killed(models: Path) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")])
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(models / "policy")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )
    # The guardian, the API server, and at least one of its own.
    while len(processes := family(parent.pid)) < 3:
        assert parent.returncode is None
        await asyncio.sleep(0.05)
    parent.kill()
    await parent.wait()
    for process in processes:
        assert await process.gone(60)


@pytest.mark.parametrize(
    ("flags", "build", "asked", "given"),
    [
        ("fpu avx2", "vllm-cpu", "auto", "float32"),
        ("fpu avx512_bf16", "vllm-cpu", "auto", "auto"),
        ("fp asimd bf16", "vllm-cpu", "auto", "auto"),
        (None, "vllm-cpu", "auto", "auto"),
        ("fpu avx2", "vllm-cpu", "bfloat16", "bfloat16"),
        ("fpu avx2", "vllm", "auto", "auto"),
    ],
)
def test_a_cpu_without_bfloat16_computes_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str | None, build: str, asked: str,
    given: str
) -> None:  # fmt: skip
    told = tmp_path / "cpuinfo"
    if flags is not None:
        told.write_text(f"flags\t\t: {flags}\n")
    monkeypatch.setattr(module, "CPU", told)
    found = find_vllm(interpreter(tmp_path / "bin", f"echo {build} 0.32.0"))
    command = arguments(VllmSettings(model="org/name", dtype=asked), found, "name", 8000)
    assert command[command.index("--dtype") + 1] == given
