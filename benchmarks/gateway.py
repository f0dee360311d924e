"""What the service costs as a gateway: beside the model alone, beside others of its kind, and with
many sessions at once.

    make bench-gateway

``models`` is on the demo's policy and critic on real vLLM, ``peers`` and ``sessions`` on models of
fixed latency. The service has a process of its own. Ratios are of one run: what is compared is
asked in turn, so that noise of the machine falls on all alike. The JSON is kept in build/bench.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import Any

from benchmarks import served
from benchmarks.many_sessions import many_sessions
from benchmarks.passing_on import WAYS, Comparison, bodies_of, spread_of
from benchmarks.step import growing_histories, measure
from benchmarks.steps_of_peers import K, compared
from examples.bugfix.collect import MAX_MODEL_LEN, MAX_TOKENS, POLICY_ARGUMENTS
from examples.bugfix.experiment import CHECKPOINTS
from service.local.stack import Stack, StackSettings, local_stack

PARTS = ("models", "peers", "sessions")


async def on_models(rounds: int, concurrent: int = 16, k: int = 4) -> dict[str, Any]:
    """On real vLLM: one candidate passed on, and a guided step beside a plain request for K."""
    settings = StackSettings(
        policy=CHECKPOINTS / "policy",
        critics={"critic": CHECKPOINTS / "critic"},
        max_model_len=MAX_MODEL_LEN,
        policy_arguments=POLICY_ARGUMENTS,
    )
    async with local_stack(settings, report=lambda text: print(f"{text}...")) as stack:
        histories = growing_histories(4, 6)
        found: dict[str, Any] = {}
        for logprobs in (True, False):
            name = "guided" if logprobs else "guided without log-probabilities"
            async with served.service(_over(stack, logprobs=logprobs)) as service:
                found[name] = await _guided(stack._replace(url=service.url), k, histories, rounds)
                print(f"{name}, K={k} to n={k}: {found[name]['ratio']}", flush=True)
                if logprobs:
                    found["passing on"] = await _passing_on(
                        stack, service.url, histories, rounds, concurrent
                    )
    return found


async def _guided(through: Stack, k: int, histories: list[Any], rounds: int) -> dict[str, Any]:
    await measure(through, k, histories[:3])  # warm up
    measured = [await measure(through, k, histories) for _ in range(rounds)]
    return {"ratio": spread_of([one["guided_to_plain"] for one in measured]), "rounds": measured}


def _over(stack: Stack, *, logprobs: bool) -> dict[str, Any]:
    """Settings of a service of its own process, over the stack's models."""
    policy, critic = stack.servers["policy"], stack.servers["critic critic"]
    return {
        "policies": {
            "policy": {
                "type": "openai",
                "url": f"{policy.url}/v1",
                "model": policy.model,
                "continuous_usage": True,
                "logprobs": logprobs,
            }
        },
        "critics": {
            "critic": {
                "type": "vllm",
                "url": critic.url,
                "model": critic.model,
                "checkpoint": str(CHECKPOINTS / "critic"),
            }
        },
    }


async def _passing_on(
    stack: Stack, url: str, histories: list[Any], rounds: int, concurrent: int
) -> dict[str, Any]:
    direct = stack.servers["policy"].url
    fields = {"max_tokens": MAX_TOKENS, "temperature": 1.0}
    many = Comparison(direct, url, bodies_of(histories, 3 * concurrent, **fields))
    few = Comparison(direct, url, bodies_of(histories, 12, **fields))
    found: dict[str, Any] = {}
    try:
        for way in WAYS:
            found[way] = {
                "throughput": await many.throughput(way, concurrent=concurrent, rounds=rounds),
                "latency": await few.latency(way, rounds=rounds),
            }
            print(f"{way}: {json.dumps(found[way])}", flush=True)
    finally:
        await many.close()
        await few.close()
    return found


async def measured(options: argparse.Namespace) -> dict[str, Any]:
    report: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    if "models" in options.part:
        report["models"] = await on_models(options.rounds)
    if "peers" in options.part:
        report["peers"] = await compared(K, steps=options.steps, others=not options.alone)
    if "sessions" in options.part:
        report["sessions"] = await many_sessions(options.sessions, 60 * options.minutes)
        print(json.dumps(report["sessions"]), flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--rounds", type=int, default=5, help="of each comparison on vLLM")
    parser.add_argument("--steps", type=int, default=5, help="of each peer")
    parser.add_argument("--alone", action="store_true", help="without others' packages")
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=10.0, help="of all sessions at once")
    parser.add_argument("--out", type=Path, default=Path("build/bench/gateway.json"))
    options = parser.parse_args()
    report = asyncio.run(measured(options))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(options.out.read_text()) if options.out.exists() else {}
    options.out.write_text(json.dumps(before | report, indent=1) + "\n")


if __name__ == "__main__":
    main()
