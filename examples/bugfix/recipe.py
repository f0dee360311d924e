"""`make retrain`: remakes the demo's policy and critic from nothing, stage by stage. A stage that
is done is not done again; one that was cut short is taken up where it was.
    python -m examples.bugfix.recipe            # all stages
    python -m examples.bugfix.recipe --list     # what there is, and what is done
    python -m examples.bugfix.recipe --until critic-1

Which settings, and why, is in README.md beside this file. What came out is written to
checkpoints/PROVENANCE.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critic.settings import TrainingSettings
from critic.training import train as train_critic
from critic.trajectory import Trajectory, read_trajectories
from examples.bugfix.collect import MAX_MODEL_LEN, POLICY_ARGUMENTS, collect, strategy, tasks_of
from pilotfish import AsyncPilotfish
from search.errors import SearchError
from service.local.stack import StackSettings, local_stack

BUILD = Path("build/bugfix")
CHECKPOINTS = Path(__file__).parent / "checkpoints"
POLICY_NAME = "bugfix-policy"
SEED = 0

SUPERVISED_PASSES = 2
SOLVED_PASSES = 1
"""Further passes over the demonstrations that solved their task, at a lower rate."""
FINE_TUNING = {"passes": 1, "rate": 2e-3, "seed": 2}
AT_ONCE = 48
FIRST_CRITIC = TrainingSettings(epochs=2, lr=4e-4, batch_tokens=4000, seed=SEED)
SECOND_CRITIC = TrainingSettings(epochs=2, lr=3e-4, batch_tokens=4000, seed=SEED, warm_lam=0.7)
"""Begun from the first: it knows the policy's own rollouts, and learns what argmax made of it."""


@dataclass(frozen=True)
class Stage:
    """One step of the recipe. ``made`` is there when it is done."""

    name: str
    what: str
    run: Callable[[], dict[str, Any]]
    made: Path

    @property
    def marker(self) -> Path:
        return BUILD / "stages" / f"{self.name}.json"

    @property
    def done(self) -> bool:
        return self.marker.exists() and self.made.exists()

    def do(self) -> None:
        """Run it. A stage that was cut short and taken up has the seconds of all its goes, but for
        one that was killed outright."""
        began = time.monotonic() - self._spent()
        self.marker.parent.mkdir(parents=True, exist_ok=True)
        try:
            facts = self.run()
        except BaseException:
            self._cut.write_text(str(time.monotonic() - began))
            raise
        row = {"what": self.what, "seconds": round(time.monotonic() - began), **facts}
        self.marker.write_text(json.dumps(row, indent=2) + "\n")
        self._cut.unlink(missing_ok=True)

    @property
    def _cut(self) -> Path:
        """Where the seconds of goes that were cut short are kept."""
        return self.marker.with_suffix(".cut")

    def _spent(self) -> float:
        return float(self._cut.read_text()) if self._cut.exists() else 0.0


def _module(name: str, *arguments: str) -> None:
    # Without it OpenMP's threads spin while they wait, and starve each other on busy cores.
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    command = [sys.executable, "-m", f"examples.bugfix.{name}", *arguments]
    subprocess.run(command, check=True, env=environment)


def demonstrations() -> dict[str, Any]:
    out = BUILD / "demonstrations.jsonl"
    _module("demonstrator", "--out", str(out))
    rows = [json.loads(line) for line in out.open()]
    solved = sum(row["reward"] for row in rows) / len(rows)
    return {"demonstrations": len(rows), "solved": round(solved, 4)}


def tokenizer() -> dict[str, Any]:
    _module("tokenizer")
    return {}


def supervised() -> dict[str, Any]:
    out = BUILD / "policy"
    _module("policy_training", "--out", str(out), "--passes", str(SUPERVISED_PASSES))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    return {"passes": SUPERVISED_PASSES, "agent_loss": rows[-1]["agent_loss"]}


def solved_only() -> dict[str, Any]:
    _module(
        "policy_training",
        *("--start", str(BUILD / f"policy/pass-{SUPERVISED_PASSES}"), "--solved-only"),
        *("--passes", str(SOLVED_PASSES), "--rate", "3e-3", "--seed", "1"),
        *("--out", str(BUILD / "policy-solved")),
    )
    rows = [json.loads(line) for line in (BUILD / "policy-solved/metrics.jsonl").open()]
    return {"passes": SOLVED_PASSES, "agent_loss": rows[-1]["agent_loss"]}


def rollouts(
    out: Path,
    policy: Path,
    *,
    n: int,
    tasks: int | None = None,
    k: int = 1,
    critic: Path | None = None,
    seed: int = SEED,
) -> dict[str, Any]:
    """N rollouts on each of so many training tasks (default: all), through the service."""

    async def run() -> None:
        stack = StackSettings(
            policy=policy,
            policy_name=POLICY_NAME,
            critics={"critic": critic} if critic else {},
            max_model_len=MAX_MODEL_LEN,
            policy_arguments=POLICY_ARGUMENTS,
            service={"concurrent_runs": AT_ONCE},
        )
        async with (
            local_stack(stack, report=print) as up,
            AsyncPilotfish(up.url) as client,
        ):
            await collect(
                client,
                tasks_of("train", tasks),
                strategy(k=k, n=n, seed=seed),
                out,
                at_once=AT_ONCE,
                label=out.stem,
            )

    asyncio.run(run())
    return _facts(read_trajectories(out))


def _facts(trajectories: Iterable[Trajectory]) -> dict[str, Any]:
    rewards: list[float] = []
    statuses: dict[str, int] = {}
    for trajectory in trajectories:
        rewards.append(trajectory.reward or 0.0)
        status = str(trajectory.exit_status)
        statuses[status] = statuses.get(status, 0) + 1
    solved = round(sum(rewards) / max(1, len(rewards)), 4)
    return {"trajectories": len(rewards), "solved": solved, "exit_statuses": statuses}


def fine_tuning() -> dict[str, Any]:
    """Rejection fine-tuning: one pass over the policy's own successes, and with them the
    demonstrations that solved their task, since its own are few."""
    successes = BUILD / "successes.jsonl"
    count = write_successes(BUILD / "round-0.jsonl", successes)
    tuned = BUILD / "policy-tuned"
    _module(
        "policy_training",
        *("--data", str(successes), str(BUILD / "demonstrations.jsonl"), "--solved-only"),
        *("--start", str(SOLVED), "--out", str(tuned)),
        *(f"--{name}={value}" for name, value in FINE_TUNING.items()),
    )
    return {"successes": count, **FINE_TUNING}


def write_successes(rollouts: Path, out: Path) -> int:
    """The rollouts that solved their task, equal ones once, as demonstrations; how many."""
    seen: set[str] = set()
    with out.open("w") as lines:
        for trajectory in read_trajectories(rollouts):
            messages = [{"role": m.role, "content": m.text} for m in trajectory.messages]
            key = json.dumps(messages)
            if trajectory.reward == 1.0 and key not in seen:
                seen.add(key)
                lines.write(json.dumps({"messages": messages, "reward": 1.0}) + "\n")
    return len(seen)


def critic(out: Path, init: Path, files: list[Path], settings: TrainingSettings) -> dict[str, Any]:
    def show(step: int, steps: int, metrics: dict[str, float]) -> None:
        if step % 20 == 0 or "auc_last" in metrics:
            told = " ".join(f"{name} {value:.3g}" for name, value in metrics.items())
            print(f"{out.name}: {step}/{steps} {told}", flush=True)

    trajectories = (t for file in files for t in read_trajectories(file))
    metrics = train_critic(init, trajectories, out, settings, progress=show)
    return {"settings": settings.model_dump(), "held_out_tasks": metrics}


SOLVED = BUILD / f"policy-solved/pass-{SOLVED_PASSES}"
TUNED = BUILD / f"policy-tuned/pass-{FINE_TUNING['passes']}"


def stages() -> list[Stage]:
    """All stages in order."""
    first, second = BUILD / "round-1.jsonl", BUILD / "round-2.jsonl"
    one, two = BUILD / "critic-1", BUILD / "critic-2"
    return [
        Stage("demonstrations", "scripted, executed for real", demonstrations,
              BUILD / "demonstrations.jsonl"),
        Stage("tokenizer", "byte-level BPE", tokenizer, BUILD / "tokenizer"),
        Stage("policy", "supervised on all demonstrations", supervised,
              BUILD / f"policy/pass-{SUPERVISED_PASSES}"),
        Stage("policy-solved", "and on those that solved their task", solved_only, SOLVED),
        Stage("round-0", "rollouts of the supervised policy",
              lambda: rollouts(BUILD / "round-0.jsonl", SOLVED, n=1, tasks=1500),
              BUILD / "round-0.jsonl"),
        Stage("policy-tuned", "rejection fine-tuning on its own successes", fine_tuning, TUNED),
        Stage("round-1", "rollouts of the policy alone",
              lambda: rollouts(first, TUNED, n=2, tasks=2250, seed=1), first),
        Stage("critic-1", "from the policy's weights, on round 1",
              lambda: critic(one, TUNED, [first], FIRST_CRITIC), one / "critic.json"),
        Stage("round-2", "rollouts under lookahead with the first critic",
              lambda: rollouts(second, TUNED, n=1, k=4, critic=one, seed=2), second),
        Stage("critic-2", "from the first critic, on both rounds",
              lambda: critic(two, one, [first, second], SECOND_CRITIC), two / "critic.json"),
        Stage("ship", "copied to checkpoints/", ship, CHECKPOINTS / "PROVENANCE.json"),
    ]  # fmt: skip


def ship() -> dict[str, Any]:
    """Put the checkpoints and their provenance in place."""
    for name, source in (("policy", TUNED), ("critic", BUILD / "critic-2")):
        target = CHECKPOINTS / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("metrics.jsonl", "*.pt"))
    provenance = {
        "recipe": "make retrain",
        "seed": SEED,
        "stages": {
            stage.name: json.loads(stage.marker.read_text())
            for stage in stages()
            if stage.name != "ship" and stage.marker.exists()
        },
    }
    (CHECKPOINTS / "PROVENANCE.json").write_text(json.dumps(provenance, indent=2) + "\n")
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description="Remake the demo's policy and critic.")
    names = [stage.name for stage in stages()]
    parser.add_argument("--list", action="store_true", help="show the stages")
    parser.add_argument("--until", choices=names, help="stop after this stage")
    options = parser.parse_args()
    for stage in stages():
        print(f"{'done' if stage.done else '    '}  {stage.name:16} {stage.what}", flush=True)
        if not options.list and not stage.done:
            try:
                stage.do()
            except SearchError as error:
                raise SystemExit(f"error in {stage.name}: {error}") from None
        if stage.name == options.until:
            break


if __name__ == "__main__":
    main()
