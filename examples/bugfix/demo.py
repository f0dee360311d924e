"""`make demo`: watch an agent fix held-out bugs, alone and guided, on real parts. Knows nothing of
training.

Everything runs here: embedded Redis, policy and critic on vLLM, the service, a sandbox for each
attempt. Each task is attempted N times by the policy alone and N times under lookahead; tasks are
taken until the time is up, so that a slower machine shows fewer of them. It ends with a table and
demo/report.html, and leaves nothing running.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import signal
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import structlog
from jinja2 import Environment, FileSystemLoader, select_autoescape
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from critic.errors import CriticInputError
from critic.statistics import Estimate, pass_at
from critic.trajectory import write_trajectories
from examples.bugfix import plots
from examples.bugfix.collect import MAX_MODEL_LEN, POLICY_ARGUMENTS, strategy, tasks_of
from examples.bugfix.results import Results, last_qs, q_by_progress, results
from pilotfish import AsyncPilotfish, PilotfishError, Task, Trajectory
from search.errors import SearchError
from service.local.stack import StackSettings, local_stack

HERE = Path(__file__).parent
CHECKPOINTS = HERE / "checkpoints"
MODES = {"policy alone": 1, "lookahead": 4}


@dataclass
class Demo:
    """What is shown while it goes on."""

    out: Path
    attempts: int
    finished: set[str] = field(default_factory=set)
    """Tasks of which all attempts of both modes are there."""
    decisions: int = 0
    degraded: int = 0
    """Decisions under lookahead, and those made with less than was asked for."""
    steered: tuple[Task, Trajectory] | None = None
    """A solved task where the critic overruled the policy's most probable candidate."""

    def file(self, mode: str) -> Path:
        return self.out / f"{mode.replace(' ', '-')}.jsonl"

    def results(self) -> dict[str, Results]:
        return {mode: results([self.file(mode)], "default") for mode in MODES}

    def keep(self, task: Task, by_mode: Mapping[str, list[Trajectory]]) -> None:
        for mode, trajectories in by_mode.items():
            write_trajectories(self.file(mode), trajectories)
        self.finished.add(task.id)
        for trajectory in by_mode["lookahead"]:
            self.decisions += len(trajectory.steps)
            self.degraded += sum(step.decision.degraded for step in trajectory.steps)
            if trajectory.reward == 1.0 and _overruled(trajectory) and self.steered is None:
                self.steered = (task, trajectory)


def _overruled(trajectory: Trajectory) -> bool:
    """Whether the critic chose against the policy's own preference, by a clear difference."""
    for step in trajectory.steps:
        scored = [c for c in step.decision.candidates if c.q is not None and c.logprob is not None]
        if len(scored) > 1:
            likely = max(scored, key=lambda c: c.logprob or 0.0)
            if (step.decision.winner.q or 0.0) - (likely.q or 0.0) > 0.3:
                return True
    return False


async def run(demo: Demo, tasks: list[Task], *, minutes: float, at_once: int, screen: Console,
              models: tuple[Path, Path]) -> None:  # fmt: skip
    """Run tasks until there are no more or the time is up."""
    policy, critic = models
    stack = StackSettings(
        policy=policy,
        policy_name="bugfix-policy",
        critics={"bugfix-critic": critic},
        max_model_len=MAX_MODEL_LEN,
        policy_arguments=POLICY_ARGUMENTS,
        logs=demo.out / "logs",
        service={"concurrent_runs": 2 * at_once},
    )
    async with AsyncExitStack() as started:
        with screen.status("") as status:
            starting = local_stack(
                stack, report=lambda text: status.update(f"{text} (about a minute)")
            )
            up = await started.enter_async_context(starting)
        client = await started.enter_async_context(AsyncPilotfish(up.url))
        await rounds(demo, client, tasks, minutes=minutes, at_once=at_once, screen=screen)


async def rounds(demo: Demo, client: AsyncPilotfish, tasks: list[Task], *, minutes: float,
                  at_once: int, screen: Console) -> None:  # fmt: skip
    end = time.monotonic() + 60 * minutes
    permits = asyncio.Semaphore(at_once)
    columns = (TextColumn("held-out bugs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=screen)
    bar = progress.add_task("tasks", total=len(tasks))
    with Live(progress, console=screen, refresh_per_second=4) as live:

        async def one(place: int, task: Task) -> None:
            async with permits:
                if time.monotonic() > end:
                    return
                by_mode = {}
                for mode, k in MODES.items():
                    plan = strategy(k=k, n=demo.attempts, seed=7_000_000 + place)
                    made = await client.run(task, plan)
                    by_mode[mode] = await client.trajectories(made.id)
            demo.keep(task, by_mode)
            progress.advance(bar)
            live.update(Group(progress, table_of(demo, quick=True)))

        async with asyncio.TaskGroup() as group:
            for place, task in enumerate(tasks):
                group.create_task(one(place, task))


def estimates_of(demo: Demo) -> dict[str, Estimate]:
    """Success of each operator on the tasks that are done."""
    found = demo.results()
    n = demo.attempts
    return {
        "policy alone": plots.interval(found["policy alone"], 1),
        f"selection, N={n}": plots.interval(found["policy alone"], n),
        "lookahead, K=4": plots.interval(found["lookahead"], 1),
        f"both, K=4 N={n}": plots.interval(found["lookahead"], n),
    }


def table_of(demo: Demo, *, quick: bool = False) -> Table:
    """The table; ``quick`` leaves out the intervals, which take a moment."""
    found = demo.results()
    table = Table(title=f"{len(demo.finished)} held-out bugs, {demo.attempts} attempts each")
    for column in ("", "fixed", "95 % interval", "times alone"):
        table.add_column(column, justify="left" if not column else "right")
    if quick:
        for mode, result in found.items():
            table.add_row(mode, f"{result.outcomes.mean():.0%}", "", "")
        return table
    estimates = estimates_of(demo)
    alone = estimates["policy alone"].value
    for name, estimate in estimates.items():
        ratio = f"{estimate.value / alone:.2f}" if alone else "-"
        table.add_row(name, f"{estimate.value:.0%}", estimate.between("{:.0%}".format), ratio)
    for mode, result in found.items():
        oracle = pass_at(result.outcomes, demo.attempts)
        table.add_row(f"oracle of {demo.attempts}, {mode}", f"{oracle:.0%}", "", "", style="dim")
    return table


def write_report(demo: Demo, seconds: float) -> Path:
    """demo/report.html: the table, the plots and one steered trajectory; one file, no scripts."""
    images = demo.out / "images"
    found = demo.results()
    files = {mode: [demo.file(mode)] for mode in MODES}
    plots.bars(estimates_of(demo), images / "bars.png")
    plots.success_by_n(found, images / "by_n.png", most=demo.attempts)
    progress = {mode: q_by_progress(f) for mode, f in files.items()}
    plots.q_by_step(progress, images / "q.png")
    plots.calibration_curve({m: last_qs(f) for m, f in files.items()}, images / "calibration.png")
    template = Environment(
        loader=FileSystemLoader(HERE), autoescape=select_autoescape(["html"])
    ).get_template("report.html")
    page = template.render(
        estimates=estimates_of(demo),
        tasks=len(demo.finished),
        attempts=demo.attempts,
        minutes=seconds / 60,
        images={
            name: base64.b64encode((images / f"{name}.png").read_bytes()).decode()
            for name in ("bars", "by_n", "q", "calibration")
        },
        steered=demo.steered,
        decisions=demo.decisions,
        degraded=demo.degraded,
    )
    out = demo.out / "report.html"
    out.write_text(page)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Guided and unguided agents on held-out bugs.")
    parser.add_argument("--policy", type=Path, default=CHECKPOINTS / "policy")
    parser.add_argument("--critic", type=Path, default=CHECKPOINTS / "critic")
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--tasks", type=int, default=60, help="at most so many (200 there are)")
    parser.add_argument("--attempts", type=int, default=5, help="of each task and mode")
    parser.add_argument("--minutes", type=float, default=8.0, help="no new task after that")
    parser.add_argument("--at-once", type=int, default=6, help="tasks at a time")
    options = parser.parse_args()
    screen = Console()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(_fresh(options.out)))
    demo = Demo(options.out, options.attempts)
    began = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell had them ignored
        signal.signal(number, signal.default_int_handler)
    try:
        with screen.status("drawing bugs that nobody trained on (half a minute)"):
            tasks = tasks_of("heldout", options.tasks)
        work = run(
            demo,
            tasks,
            minutes=options.minutes,
            at_once=options.at_once,
            screen=screen,
            models=(options.policy, options.critic),
        )
        asyncio.run(work)
    except KeyboardInterrupt:
        screen.print("stopped; nothing is left running")
        raise SystemExit(130) from None
    except (SearchError, CriticInputError, PilotfishError) as error:
        screen.print(f"[red]error:[/] {error}", soft_wrap=True, highlight=False)
        raise SystemExit(1) from None
    if not demo.finished:
        screen.print("no task was finished in time: give it more --minutes")
        raise SystemExit(1)
    screen.print(table_of(demo))
    if demo.degraded:
        screen.print(
            f"[yellow]{demo.degraded} of {demo.decisions} guided decisions were made without the "
            f"critic or with fewer candidates[/]; see {options.out / 'logs'}"
        )
    screen.print(f"report: {write_report(demo, time.monotonic() - began)}")


def _fresh(out: Path) -> TextIO:
    """Remove what an earlier demo left in ``out``, and nothing else; the service's log."""
    for mode in MODES:
        Demo(out, 1).file(mode).unlink(missing_ok=True)
    (out / "report.html").unlink(missing_ok=True)
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    return (logs / "service.log").open("w", buffering=1)


if __name__ == "__main__":
    main()
