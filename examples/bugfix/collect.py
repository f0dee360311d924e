"""Rollouts through the service: one run a task, all its trajectories into a JSON lines file. Knows
nothing of models.

Taken up where it was left: what is in the file is not run again.

    python -m examples.bugfix.collect --policy POLICY --split train --out build/bugfix/round1.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from critic.trajectory import write_trajectories
from examples.bugfix import SYSTEM_PROMPT
from examples.bugfix.problem import SPLITS
from examples.bugfix.tasks import as_task, problems
from pilotfish import (
    AsyncPilotfish,
    Lookahead,
    RolloutSettings,
    Sampling,
    Selection,
    Strategy,
    Task,
    Trajectory,
)
from pilotfish.strategy import Pick
from pilotfish.trajectory import INFRASTRUCTURE_FAILURES
from search.errors import SearchError
from service.local.stack import StackSettings, local_stack

MAX_TOKENS = 160
MAX_MODEL_LEN = 2048
MOST_LOST = 5
"""So many runs in a row that the infrastructure ended mean that a server is gone."""


def strategy(
    *,
    k: int = 1,
    n: int = 1,
    temperature: float = 1.0,
    seed: int = 0,
    until_submitted: bool = False,
    pick: Pick = "argmax",
) -> Strategy:
    """The bug-fixing agent's settings under K candidates a step and N trajectories."""
    sampling = Sampling(temperature=temperature, max_tokens=MAX_TOKENS)
    return Strategy(
        lookahead=Lookahead(k=k, pick=pick, sampling=sampling),
        selection=Selection(n=n, until_submitted=until_submitted, concurrency=min(n, 8)),
        rollout=RolloutSettings(
            system_prompt=SYSTEM_PROMPT, max_steps=14, command_timeout=10, patience=30
        ),
        seed=seed,
    )


def tasks_of(split: str, count: int | None = None) -> list[Task]:
    """Tasks of a split, as the service takes them."""
    return [Task.model_validate(as_task(problem)) for problem in problems(split, count)]


async def collect(
    client: AsyncPilotfish,
    tasks: Sequence[Task],
    plan: Strategy,
    out: Path,
    *,
    critic: str | None = None,
    at_once: int = 8,
    label: str = "runs",
) -> Counter[str]:
    """Run every task that ``out`` does not have yet; returns exit statuses of what was run. Each
    task has a seed of its own, derived from the plan's and its place.

    A run that lost a trajectory to the infrastructure is not written: it is made again when the
    file is taken up. Raises: ``SearchError`` when run after run is lost.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    done = _tasks_in(out)
    statuses: Counter[str] = Counter()
    permits = asyncio.Semaphore(at_once)
    lost: list[str] = []
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[solved]}"))  # fmt: skip
    with Progress(*columns) as bar:
        shown = bar.add_task(label, total=len(tasks), completed=len(done), solved="")
        rewards: list[float] = []

        async def one(place: int, task: Task) -> None:
            async with permits:
                seeded = plan.model_copy(update={"seed": (plan.seed or 0) * 1_000_003 + place})
                run = await client.run(task, seeded, critic=critic)
                trajectories = await client.trajectories(run.id)
            if reason := _lost(trajectories):
                lost.append(reason)
                if len(lost) >= MOST_LOST:
                    raise SearchError(f"{len(lost)} runs in a row were lost; the last: {reason}")
                return
            lost.clear()
            write_trajectories(out, trajectories)
            statuses.update(str(t.exit_status) for t in trajectories)
            rewards.extend(t.reward for t in trajectories if t.reward is not None)
            solved = f"solved {sum(rewards) / max(1, len(rewards)):.1%}"
            bar.update(shown, advance=1, solved=solved)

        try:
            async with asyncio.TaskGroup() as group:
                for place, task in enumerate(tasks):
                    if task.id not in done:
                        group.create_task(one(place, task))
        except ExceptionGroup as errors:  # raised within except*, it would be a group again
            raise errors.exceptions[0] from None
    return statuses


def _lost(trajectories: Sequence[Trajectory]) -> str | None:
    """Why the infrastructure ended one of the N and all its replacements, if it did."""
    by_slot = {t.slot: t for t in trajectories}  # the last of each
    reasons = [t.exit_message for t in by_slot.values() if t.exit_status in INFRASTRUCTURE_FAILURES]
    if not trajectories:
        return "the run has no trajectory"
    return str(reasons[0]) if reasons else None


def _tasks_in(out: Path) -> set[str]:
    if not out.exists():
        return set()
    with out.open() as lines:
        return {json.loads(line)["task_id"] for line in lines if line.strip()}


async def _main(options: argparse.Namespace) -> None:
    stack = StackSettings(
        policy=options.policy,
        critics={"critic": options.critic} if options.critic else {},
        max_model_len=MAX_MODEL_LEN,
        eager=options.eager,
        policy_arguments=POLICY_ARGUMENTS,
        service={"concurrent_runs": options.at_once},
        logs=options.logs,
    )
    plan = strategy(
        k=options.k,
        n=options.n,
        temperature=options.temperature,
        seed=options.seed,
        until_submitted=options.until_submitted,
    )
    tasks = tasks_of(options.split, options.count)
    async with (
        local_stack(stack, report=lambda text: print(text, flush=True)) as up,
        AsyncPilotfish(up.url) as client,
    ):
        statuses = await collect(client, tasks, plan, options.out, at_once=options.at_once)
    print(dict(statuses))


POLICY_ARGUMENTS = [
    *("--max-num-seqs", "64", "--stream-interval", "16", "--enable-auto-tool-choice"),
    *("--tool-parser-plugin", str(Path(__file__).with_name("vllm_tools.py"))),
    *("--tool-call-parser", "fenced"),
]
"""Chunks of a stream come every 16 tokens: fewer of them leave the cores to the models. (A pooling
server ends with an assertion when it is given that.) Callers who give tools get their calls."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--critic", type=Path)
    parser.add_argument("--split", choices=SPLITS, required=True)
    parser.add_argument("--count", type=int, help="how many tasks (default: the whole split)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("-k", type=int, default=1, help="candidates a step")
    parser.add_argument("-n", type=int, default=1, help="trajectories a task")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--until-submitted", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=12, help="runs at a time")
    parser.add_argument("--eager", action="store_true", help="start vLLM in half the time")
    parser.add_argument("--logs", type=Path)
    try:
        asyncio.run(_main(parser.parse_args()))
    except SearchError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
