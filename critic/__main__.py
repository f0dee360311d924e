"""The critic's command line: ``pilotfish-critic``, or ``python -m critic``."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from critic.describing import Description, describe
from critic.errors import CriticInputError
from critic.importing.importer import Imported, import_trajectories
from critic.importing.rewards import read_rewards
from critic.trajectory import read_trajectories
from pilotfish.errors import first_wrong

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
_errors = Console(stderr=True)

Data = Annotated[list[Path], typer.Option("--data", exists=True, help="Trajectories, JSON lines.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("import")
def import_(
    sources: Annotated[list[Path], typer.Argument(help="Files or folders: Parquet, JSON, .traj.")],
    out: Annotated[Path, typer.Option(help="Trajectories, JSON lines.")],
    rejects: Annotated[
        Path | None, typer.Option(help="Rows that could not be read; OUT.rejects.jsonl by default.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="What the rows are; told by their fields by default.")
    ] = None,
    rewards: Annotated[
        Path | None,
        typer.Option(exists=True, help="Outcomes by task: {task: 0 or 1}, or a SWE-bench report."),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="The policy's name, for all rows.")] = None,
    keep_unrewarded: Annotated[
        bool, typer.Option(help="Keep those of which nothing says whether they solved their task.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make other people's trajectories ours: nebius' data sets, mini-swe-agent, SWE-agent, ATIF."""
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed} rows"))
    with Progress(*columns, console=_errors) as bar:
        task = bar.add_task("importing", total=None)
        counts = import_trajectories(
            sources,
            out,
            rejects=rejects or out.with_suffix(".rejects.jsonl"),
            format=format,
            rewards=read_rewards(rewards) if rewards else None,
            policy=policy,
            keep_unrewarded=keep_unrewarded,
            progress=lambda path, c: bar.update(task, completed=c.rows, description=path.name),
        )
    description = describe(read_trajectories(out))
    if as_json:
        print(json.dumps({"rows": counts.model_dump(), "data": description.model_dump()}))
        return
    _show_import(counts)
    _show_description(description)


@app.command()
def train(
    init: Annotated[Path, typer.Option(exists=True, help="A causal LM, or a critic.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    epochs: int = 3,
    lam: Annotated[float, typer.Option(help="Lambda of TD(lambda); 1 is Monte Carlo.")] = 0.7,
    warm_lam: Annotated[float, typer.Option(help="Lambda of the first pass.")] = 1.0,
    gamma: float = 1.0,
    target_network: Annotated[str, typer.Option(help="online or ema.")] = "online",
    loss: Annotated[str, typer.Option(help="bce, l2 or hl_gauss.")] = "bce",
    ordering: Annotated[
        float, typer.Option(help="Weight of ordering a task's trajectories by outcome.")
    ] = 0.0,
    lr: float = 3e-4,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of a forward pass.")] = 16_384,
    step_tokens: Annotated[
        int | None, typer.Option(help="Tokens of an optimiser step; of one pass by default.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens that the critic reads; of more, a window.")
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of the tasks to measure on.")] = 0.1,
    eval_every: Annotated[int | None, typer.Option(help="Steps; each pass by default.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many evaluations that are no better.")
    ] = None,
    lora_rank: Annotated[int, typer.Option(help="Train adapters of this rank; 0: all.")] = 0,
    gradient_checkpointing: bool = False,
    dropout: float = 0.0,
    policy_in_prompt: bool = False,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Train a critic on trajectories that have a reward. Ctrl-C stops it; the same command goes
    on."""
    given = dict(locals())
    from critic.training import TrainingSettings
    from critic.training import train as run

    settings = TrainingSettings.model_validate(
        {name: given[name] for name in TrainingSettings.model_fields if name in given}
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_errors) as bar, _interruptible() as interrupted:
        task = bar.add_task("training", total=None)

        def show(step: int, steps: int, metrics: dict[str, float]) -> None:
            text = " ".join(f"{k} {v:.3g}" for k, v in metrics.items() if k != "lr")
            bar.update(task, completed=step, total=steps, description=text)

        trajectories = (t for path in data for t in read_trajectories(path))
        metrics = run(init, trajectories, out, settings, progress=show, stopped=interrupted.is_set)
    if "stopped" in metrics:
        _errors.print("stopped; the same command goes on from here")
        raise SystemExit(130)
    _print(metrics, as_json)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, once: the second time they end us as ever."""
    event = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def told(number: int, frame: object) -> None:
        event.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, told)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@app.command("eval")
def evaluate(
    critic: Annotated[Path, typer.Option(exists=True, help="Folder of the critic.")],
    data: Data,
    as_json: AsJson = False,
) -> None:
    """Measure a critic on trajectories that have a reward."""
    from accelerate import Accelerator

    from critic.data import prepare
    from critic.measuring import measure
    from critic.scoring import Scorer

    scorer = Scorer(critic)
    prepared = prepare((t for p in data for t in read_trajectories(p)), scorer.renderer)
    if not prepared.examples:
        raise CriticInputError("no trajectory in the data has a reward")
    accelerator = Accelerator(mixed_precision="bf16")
    model = accelerator.prepare_model(scorer.model, evaluation_mode=True)
    pad = int(scorer.model.network.config.pad_token_id)
    _print(measure(accelerator, model, prepared.examples, 16_384, pad), as_json)


@app.command()
def score(
    critic: Annotated[Path, typer.Option(exists=True, help="Folder of the critic.")],
    data: Data,
) -> None:
    """Print Q at every agent turn of each trajectory, a JSON line each."""
    from critic.scoring import Scorer

    scorer = Scorer(critic)
    for path in data:
        for trajectory in read_trajectories(path):
            qs = scorer.score_turns(trajectory.messages, policy=trajectory.policy)
            print(json.dumps({"id": trajectory.id, "task_id": trajectory.task_id, "q": qs}))


def _show_import(counts: Imported) -> None:
    print(f"{counts.rows} rows: {counts.kept} kept, {counts.duplicates} came twice, "
          f"{counts.unrewarded} without an outcome, {counts.rejected} rejected")  # fmt: skip
    for error, count in sorted(counts.errors.items(), key=lambda pair: -pair[1])[:5]:
        print(f"  rejected, {count}: {error}")


def _show_description(data: Description) -> None:
    print(f"{data.all.trajectories} trajectories of {data.tasks} tasks, of them {data.mixed_tasks} "
          "have a success and a failure")  # fmt: skip
    for title, groups in (("policy", data.policies), ("exit status", data.exit_statuses)):
        table = Table(title, "trajectories", "solved", box=None)
        for name, group in sorted(groups.items(), key=lambda pair: -pair[1].trajectories):
            solved = "-" if math.isnan(group.rate) else f"{group.rate:.1%}"
            table.add_row(escape(name), str(group.trajectories), solved)
        Console().print(table)
    for name, quantiles in (("turns", data.turns), ("characters", data.characters)):
        shown = ", ".join(f"{key} {value:,.0f}" for key, value in quantiles.items())
        print(f"{name}: {shown}")


def _print(metrics: dict[str, float], as_json: bool) -> None:
    if as_json:
        print(json.dumps(metrics))
        return
    for name, value in metrics.items():
        print(f"{name:20} {value:.4g}")


def main() -> None:
    """Run, and put an error that the user can mend on one line."""
    try:
        app()
    except ValidationError as error:
        _fail(first_wrong(error.errors())[1])
    except (CriticInputError, ValueError, OSError, FloatingPointError) as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    _errors.print(f"[red]error:[/] {escape(message)}", soft_wrap=True)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
