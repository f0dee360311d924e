"""``train``: a critic from trajectories that have a reward."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from critic.commands.shared import (
    AsJson,
    Data,
    Set,
    assigned,
    end_stopped,
    errors,
    interruptible,
    is_first_process,
    print_metrics,
    training_bar,
    trajectories_of,
)
from critic.errors import CriticInputError
from critic.settings import TrainingSettings

_DEFAULT = TrainingSettings()


def train(
    init: Annotated[Path, typer.Option(exists=True, help="A causal LM, or a critic.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    epochs: int = _DEFAULT.epochs,
    lam: Annotated[
        float,
        typer.Option(
            help="Lambda of TD(lambda); 1 is Monte Carlo. The first pass of several: warm_lam."
        ),
    ] = _DEFAULT.lam,
    gamma: float = _DEFAULT.gamma,
    target_network: Annotated[str, typer.Option(help="online or ema.")] = _DEFAULT.target_network,
    loss: Annotated[str, typer.Option(help="bce, l2 or hl_gauss.")] = _DEFAULT.loss,
    ordering: Annotated[
        float, typer.Option(help="Weight of ordering a task's trajectories by outcome.")
    ] = _DEFAULT.ordering,
    lr: float = _DEFAULT.lr,
    batch_tokens: Annotated[
        int, typer.Option(help="Tokens of a forward pass.")
    ] = _DEFAULT.batch_tokens,
    step_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of an optimiser step; by default a batch of each process."),
    ] = _DEFAULT.step_tokens,
    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens that the critic reads; of more, a window.")
    ] = _DEFAULT.max_tokens,
    held_out: Annotated[
        float, typer.Option(help="Share of the tasks to measure on.")
    ] = _DEFAULT.held_out,
    eval_every: Annotated[
        int | None, typer.Option(help="Steps; each pass by default.")
    ] = _DEFAULT.eval_every,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many evaluations that are no better.")
    ] = _DEFAULT.patience,
    lora_rank: Annotated[
        int, typer.Option(help="Train adapters of this rank; 0: all.")
    ] = _DEFAULT.lora_rank,
    gradient_checkpointing: bool = _DEFAULT.gradient_checkpointing,
    policy_in_prompt: bool = _DEFAULT.policy_in_prompt,
    seed: int = _DEFAULT.seed,
    others: Set = None,
    as_json: AsJson = False,
) -> None:
    """Train a critic on trajectories that have a reward. Ctrl-C stops it; the same command goes
    on."""
    given = dict(locals())
    from critic.devices import joined_processes
    from critic.training import train as run

    named = {name: given[name] for name in TrainingSettings.model_fields if name in given}
    settings = TrainingSettings.model_validate(named | assigned(others))
    _check_place(init, out)
    with joined_processes(), training_bar() as show, interruptible() as interrupted:
        metrics = run(
            init, trajectories_of(data), out, settings, progress=show, stopped=interrupted.is_set
        )
    if "stopped" in metrics:
        end_stopped()
    if is_first_process():
        if not metrics["held_out_trajectories"]:
            errors.print("no task was held out: these figures are of what it was trained on")
        print_metrics(metrics, as_json)


def _check_place(init: Path, out: Path) -> None:
    """Nothing that is finished is written over. Raises: ``CriticInputError``."""
    from critic.checkpoint import CARD
    from critic.progress import STATE

    if out.resolve() == init.resolve():
        raise CriticInputError(f"--out {out} is --init: give a folder of its own")
    if (out / CARD).exists() and not (out / STATE).exists():
        raise CriticInputError(
            f"{out} holds a critic and no training that was stopped: give another --out, or "
            "remove it"
        )
