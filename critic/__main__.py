"""The critic's command line: ``python -m critic train | eval | score``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from critic.errors import CriticInputError
from critic.trajectory import read_trajectories

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
_errors = Console(stderr=True)

Data = Annotated[list[Path], typer.Option("--data", exists=True, help="Trajectories, JSON lines.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def train(
    init: Annotated[Path, typer.Option(exists=True, help="A causal LM, or a critic.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    epochs: int = 3,
    lam: float = 0.7,
    warm_lam: float = 1.0,
    gamma: float = 1.0,
    loss: str = "bce",
    lr: float = 3e-4,
    batch_tokens: int = 16_384,
    max_tokens: int | None = None,
    held_out: float = 0.1,
    dropout: float = 0.0,
    policy_in_prompt: bool = False,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Train a critic on trajectories that have a reward."""
    from critic.training import TrainingSettings
    from critic.training import train as run

    settings = TrainingSettings.model_validate(
        {
            "epochs": epochs,
            "lam": lam,
            "warm_lam": warm_lam,
            "gamma": gamma,
            "loss": loss,
            "lr": lr,
            "batch_tokens": batch_tokens,
            "max_tokens": max_tokens,
            "held_out": held_out,
            "dropout": dropout,
            "policy_in_prompt": policy_in_prompt,
            "seed": seed,
        }
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_errors) as bar:
        task = bar.add_task("training", total=None)

        def show(step: int, steps: int, metrics: dict[str, float]) -> None:
            text = " ".join(f"{k} {v:.3g}" for k, v in metrics.items() if k != "lr")
            bar.update(task, completed=step, total=steps, description=text)

        metrics = run(init, (t for p in data for t in read_trajectories(p)), out, settings,
                      progress=show)  # fmt: skip
    _print(metrics, as_json)


@app.command("eval")
def evaluate(
    critic: Annotated[Path, typer.Option(exists=True, help="Folder of the critic.")],
    data: Data,
    as_json: AsJson = False,
) -> None:
    """Measure a critic on trajectories that have a reward."""
    from critic.data import prepare
    from critic.scoring import Scorer
    from critic.training import evaluate as measure

    scorer = Scorer(critic)
    prepared = prepare((t for p in data for t in read_trajectories(p)), scorer.renderer)
    if not prepared.examples:
        raise CriticInputError("no trajectory in the data has a reward")
    pad = int(scorer.network.config.pad_token_id)
    _print(measure(scorer.network, prepared.examples, 16_384, pad), as_json)


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
    except (CriticInputError, ValueError) as error:
        _errors.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
