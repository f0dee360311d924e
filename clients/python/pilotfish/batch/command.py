"""``pilotfish batch``: options in, a folder and a summary out. Knows no HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import signal
from collections.abc import Coroutine, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pilotfish.batch.folder import BatchFolder, FolderError, folder_name
from pilotfish.batch.progress import Progress, lines_of
from pilotfish.batch.results import Summary
from pilotfish.batch.running import Batch, Listener
from pilotfish.client import AsyncPilotfish
from pilotfish.inputs import (
    AsJson,
    Critic,
    InputError,
    K,
    MaxTokens,
    Model,
    N,
    Sandbox,
    Seconds,
    StrategyFile,
    Tokens,
    UntilSubmitted,
    plan_of,
)
from pilotfish.strategy import Strategy
from pilotfish.swebench import SweBenchOptions
from pilotfish.task import Task
from pilotfish.tasks import TaskFileError, files_of, read_tasks

screen = Console()
complaints = Console(stderr=True)


def batch(
    context: typer.Context,
    tasks: Annotated[
        Path,
        typer.Argument(
            help="Tasks, or rows like SWE-bench's: JSON lines, JSON, Parquet, or a folder of such."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder of results.")],
    workers: Annotated[
        int, typer.Option("-w", "--workers", min=1, max=512, help="Runs at once, at most.")
    ] = 8,
    subset: Annotated[
        str | None,
        typer.Option(
            help="Only rows whose column `subset` is this; where there is no such column, of files "
            "of that name (lite.jsonl, lite-0.parquet) or in a folder of that name."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="The same by the column `split`, or test.jsonl, test-0...")
    ] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", help="Only ids that match this regular expression.")
    ] = None,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="In random order, by --seed; before --slice.")
    ] = False,
    slice_: Annotated[
        str | None, typer.Option("--slice", help="Of those, FIRST:LAST[:STEP], as in Python.")
    ] = None,
    redo_existing: Annotated[
        bool, typer.Option("--redo-existing", help="Run again what has a result, and lose that.")
    ] = False,
    strategy: StrategyFile = None,
    k: K = None,
    n: N = None,
    tokens: Tokens = None,
    max_tokens: MaxTokens = None,
    seconds: Seconds = None,
    until_submitted: UntilSubmitted = False,
    seed: int | None = None,
    model: Model = None,
    critic: Critic = None,
    sandbox: Sandbox = None,
    image: Annotated[
        str | None,
        typer.Option(
            help="Image of SWE-bench's rows, with {instance_id}, {repo}, {version}, {slug}; by "
            "default the row's own, else SWE-bench's public one."
        ),
    ] = None,
    test_command: Annotated[
        str | None,
        typer.Option(help="How to run {files} of SWE-bench's rows where pytest does not."),
    ] = None,
    test_timeout: Annotated[
        float, typer.Option(help="Seconds of a SWE-bench row's hidden tests.", min=1, max=7200)
    ] = 1800.0,
    patience: Annotated[
        float, typer.Option(help="Seconds that the service may be away.", min=0)
    ] = 600.0,
    tries: Annotated[
        int,
        typer.Option(help="Tries of a task that the infrastructure fails, until the next start.",
                     min=1, max=100),
    ] = 2,
    detach: Annotated[
        bool, typer.Option("--detach", help="Ctrl-C leaves the runs under way in the service.")
    ] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Run many tasks into a folder. The same command goes on where it was stopped: what has a
    result stays, what is under way in the service is found again, what the infrastructure failed is
    run again.

    Exit code 1: some task was left without the policy's own result.
    """
    plan = plan_of(strategy, k, n, tokens, max_tokens, seconds, until_submitted, seed)
    rows = SweBenchOptions(image=image, test_command=test_command, timeout=test_timeout)
    try:
        asked = _tasks(tasks, rows, subset, split, filter_)
        asked = _chosen(asked, seed if shuffle else None, shuffle, slice_)
        digest = _digest(tasks)
    except TaskFileError as error:
        raise InputError(str(error)) from error
    named = {"model": model, "critic": critic, "sandbox": sandbox}
    options: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    settings = hashlib.sha256(
        f"{plan.model_dump_json()}\n{sorted(options.items())}\n{rows.model_dump_json()}".encode()
    ).hexdigest()
    folder = BatchFolder(out)
    try:
        with folder.locked():
            folder.open_for(settings, digest, anew=redo_existing)
            if redo_existing:
                for task in asked:
                    if folder.state(task.id) is not None:
                        folder.next_try(task.id)
            summary = _run(context, folder, asked, plan, options, workers, patience, tries, detach,
                           quiet=as_json)  # fmt: skip
    except FolderError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"cannot write {error.filename or out}: {error.strerror}") from error
    if as_json:
        print(summary.model_dump_json())
    else:
        for line in lines_of(summary):
            screen.print(line, highlight=False, markup=False, soft_wrap=True)
    if summary.infrastructure or summary.refused:
        raise typer.Exit(1)


def _run(
    context: typer.Context,
    folder: BatchFolder,
    tasks: Sequence[Task],
    plan: Strategy,
    options: dict[str, Any],
    workers: int,
    patience: float,
    tries: int,
    detach: bool,
    *,
    quiet: bool,
) -> Summary:
    through = sum(folder.is_done(task.id) for task in tasks)
    progress = Progress(complaints, len(tasks), through)
    where = context.parent.params if context.parent else {}

    async def run() -> Summary:
        async with AsyncPilotfish(
            where.get("url"), where.get("key"), timeout=where.get("timeout", 600.0)
        ) as client:
            made = Batch(
                client,
                folder,
                plan,
                options | {"tags": {"batch": folder.id}},
                workers=workers,
                patience=patience,
                tries=tries,
                detach=detach,
                listener=Listener() if quiet else progress,
            )
            return await made.run(tasks)

    with nullcontext() if quiet else progress.shown():
        return _interruptible(run())


def _interruptible(work: Coroutine[Any, Any, Summary]) -> Summary:
    """Like ``asyncio.run``. A Ctrl-C cancels ``work`` alone, and not what it does to end well, as
    Python 3.10's would; another one ends it at once."""

    async def main() -> Summary:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)

        def stop() -> None:
            loop.remove_signal_handler(signal.SIGINT)
            task.cancel()

        loop.add_signal_handler(signal.SIGINT, stop)
        return await task

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _tasks(
    path: Path,
    rows: SweBenchOptions,
    subset: str | None,
    split: str | None,
    pattern: str | None,
) -> list[Task]:
    try:
        wanted = re.compile(pattern or "")
    except re.error as error:
        raise InputError(f"--filter {pattern!r} is no regular expression: {error}") from error
    found = read_tasks(
        path,
        swebench=rows,
        subset=subset,
        split=split,
        wanted=lambda task_id: _hits(wanted, task_id),
    )
    tasks: list[Task] = []
    names: dict[str, str] = {}
    for task in found:
        tasks.append(task)
        other = names.setdefault(folder_name(task.id).casefold(), task.id)
        if other != task.id:
            raise InputError(f"{task.id!r} and {other!r} would be one folder: rename one")
    return tasks


def _hits(pattern: re.Pattern[str], task_id: str) -> bool:
    return pattern.search(task_id) is not None


def _chosen(tasks: list[Task], seed: int | None, shuffle: bool, part: str | None) -> list[Task]:
    if shuffle:
        tasks = sorted(tasks, key=lambda task: task.id)
        random.Random(seed or 0).shuffle(tasks)
    if part is not None:
        try:
            numbers = [int(word) if word.strip() else None for word in part.split(":")]
            if not 2 <= len(numbers) <= 3:
                raise ValueError
            tasks = tasks[slice(*numbers)]
        except ValueError as error:
            raise InputError(f"--slice {part!r} is not FIRST:LAST or FIRST:LAST:STEP") from error
    if not tasks:
        raise InputError("no task is left to run: see --filter, --slice, --subset and --split")
    return tasks


def _digest(path: Path) -> str:
    """Of the contents of all files that tasks come from."""
    digest = hashlib.sha256()
    for file in files_of(path):
        with file.open("rb") as content:
            part = hashlib.sha256()
            while chunk := content.read(1 << 20):
                part.update(chunk)
        digest.update(part.digest())
    return digest.hexdigest()
