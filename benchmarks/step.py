"""What guidance costs a step: K guided candidates beside a plain request for K, and for one.

    make bench-step

All three are asked in turn for the same growing histories, on the demo's policy and critic on real
vLLM, so that noise of the machine falls on all alike. Medians over steps; ratios of one run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

import httpx

from examples.bugfix import SYSTEM_PROMPT
from examples.bugfix.collect import MAX_MODEL_LEN, MAX_TOKENS, tasks_of
from examples.bugfix.experiment import CHECKPOINTS
from service.local.stack import Stack, StackSettings, local_stack

Messages = list[dict[str, Any]]


async def measure(stack: Stack, k: int, histories: list[Messages]) -> dict[str, Any]:
    """Median seconds of a step in each way."""
    policy = stack.servers["policy"]
    common = {"max_tokens": MAX_TOKENS, "temperature": 1.0}
    seconds: dict[str, list[float]] = {"one": [], f"plain n={k}": [], f"guided K={k}": []}
    async with httpx.AsyncClient(timeout=300) as client:

        async def ask(kind: str, url: str, body: dict[str, Any]) -> None:
            began = time.perf_counter()
            answer = await client.post(f"{url}/v1/chat/completions", json=body | common)
            answer.raise_for_status()
            seconds[kind].append(time.perf_counter() - began)

        for turn, history in enumerate(histories):
            plain = {"model": policy.model, "messages": history, "seed": turn}
            guided = {"model": "policy:lookahead", "messages": history, "seed": turn}
            await ask("one", policy.url, plain)
            await ask(f"plain n={k}", policy.url, plain | {"n": k})
            await ask(f"guided K={k}", stack.url, guided | {"pilotfish": {"k": k}})
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    return {
        "k": k,
        "steps": len(histories),
        "median_seconds": medians,
        "guided_to_plain": medians[f"guided K={k}"] / medians[f"plain n={k}"],
        "guided_to_one": medians[f"guided K={k}"] / medians["one"],
    }


def growing_histories(tasks: int, turns: int) -> list[Messages]:
    """Histories as an agent's grow: the project's files are read, one a turn."""
    histories: list[Messages] = []
    for task in tasks_of("heldout", tasks):
        history: Messages = [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": task.statement},
        ]
        files = list(task.files.items())
        for turn in range(turns):
            histories.append(list(history))
            path, text = files[turn % len(files)]
            lines = text.splitlines()[4 * turn : 4 * turn + 12]
            shown = "\n".join(f"{4 * turn + i + 1}:{line}" for i, line in enumerate(lines))
            history += [
                {"role": "assistant", "content": f"```bash\ngrep -n '' {path}\n```"},
                {"role": "user", "content": f"<output>\n{shown}\n</output>"},
            ]
    return histories


async def _main(options: argparse.Namespace) -> None:
    settings = StackSettings(
        policy=options.policy, critics={"critic": options.critic}, max_model_len=MAX_MODEL_LEN
    )
    async with local_stack(settings, report=lambda text: print(f"{text}...")) as stack:
        histories = growing_histories(options.tasks, options.turns)
        await measure(stack, options.k, histories[:3])  # warm up
        found = await measure(stack, options.k, histories)
    for kind, value in found["median_seconds"].items():
        print(f"{kind:14} {1000 * value:8.1f} ms")
    print(f"guided to plain request of K: {found['guided_to_plain']:.2f}")
    print(f"guided to one candidate:      {found['guided_to_one']:.2f}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="What guidance costs a step.")
    parser.add_argument("--policy", type=Path, default=CHECKPOINTS / "policy")
    parser.add_argument("--critic", type=Path, default=CHECKPOINTS / "critic")
    parser.add_argument("-k", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("build/bench/step.json"))
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
