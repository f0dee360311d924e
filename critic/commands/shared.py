"""What the commands have in common: options, bars, and how they are stopped."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic_core import to_json
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from critic.errors import CriticInputError
from critic.trajectory import Trajectory, read_trajectories

errors = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
"""Where all is said that is no result. Names of files may look like markup."""

Data = Annotated[
    list[Path],
    typer.Option("--data", exists=True, dir_okay=False, help="Trajectories, JSON lines."),
]
Critic = Annotated[
    str, typer.Option("--critic", help="Folder of the critic, or the URL of a service.")
]
Name = Annotated[
    str | None, typer.Option(help="Which of the service's critics; without, its default.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other setting of critic/settings.py, NAME=VALUE."),
]


def assigned(pairs: Iterable[str] | None) -> dict[str, str | None]:
    """Of ``NAME=VALUE``; ``none`` is no value. Raises: ``CriticInputError``."""
    found: dict[str, str | None] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise CriticInputError(f"{pair!r} is not NAME=VALUE")
        found[name.strip()] = None if value.strip().lower() == "none" else value.strip()
    return found


def is_first_process() -> bool:
    """Whether it is for us to say anything, of several processes that train together."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def training_bar() -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """A bar of a training, moved as ``critic.training.Progress`` says."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, disable=not is_first_process()) as bar:
        task = bar.add_task("training", total=None)

        def show(step: int, steps: int, metrics: dict[str, float]) -> None:
            text = " ".join(f"{k} {v:.3g}" for k, v in metrics.items() if k != "lr")
            bar.update(task, completed=step, total=steps, description=text)

        yield show


def end_stopped() -> NoReturn:
    """Say how to go on, and end as whoever was interrupted does."""
    errors.print("stopped; the same command goes on from here")
    raise SystemExit(130)


def trajectories_of(data: Iterable[Path]) -> Iterator[Trajectory]:
    """Those of all files, one at a time."""
    return (trajectory for path in data for trajectory in read_trajectories(path))


@contextmanager
def interruptible() -> Iterator[threading.Event]:
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


def print_metrics(metrics: dict[str, float], as_json: bool) -> None:
    if as_json:
        print(to_json(metrics, inf_nan_mode="null").decode())
        return
    for name, value in metrics.items():
        print(f"{name:20} {value:.4g}")
