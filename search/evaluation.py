"""How a finished attempt is judged, in the sandbox that the agent left: by tests that selection may
go by, and by the hidden evaluation. Knows nothing of where the sandbox is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from pilotfish import Task
from pilotfish.task import Check, check_files
from search.commands import run_by
from search.contracts import Sandbox
from search.errors import SandboxError, SandboxLost

log = structlog.get_logger()
SUBMISSION_TIMEOUT = 60.0
Seconds = Callable[[], float | None]
"""Seconds of the run's budget that are left; ``None`` is no bound."""


async def evaluate(sandbox: Sandbox, task: Task) -> tuple[float, str]:
    """1.0 if the task's evaluation command exits with 0, else 0.0, and what is to be known of it; a
    command that does not end in time has failed. Evaluating again gives the recorded result.

    Raises: ``SandboxError`` (the task has no evaluation, or its files cannot be written),
    ``SandboxLost``.
    """
    evaluation = task.evaluation
    if evaluation is None:
        raise SandboxError(f"task {task.id!r} has no evaluation")
    await write_files(sandbox, evaluation.files)
    command = run_by(task, evaluation.command)
    result = await sandbox.execute(command, action_id="evaluation", timeout=evaluation.timeout)
    if result.timed_out:
        return 0.0, f"the evaluation did not end in {evaluation.timeout:g} s: counted as failed"
    return (1.0 if result.exit_code == 0 else 0.0), ""


async def submission_of(sandbox: Sandbox, task: Task) -> str | None:
    """What the agent hands in, as the task's command prints it; ``None`` where there is no command,
    or it fails. Asking again gives the recorded result. Raises: ``SandboxLost``."""
    if task.submission is None:
        return None
    try:
        command = run_by(task, task.submission)
        result = await sandbox.execute(command, action_id="submission", timeout=SUBMISSION_TIMEOUT)
    except SandboxLost:
        raise
    except SandboxError as error:
        log.warning("no submission was read", task=task.id, error=str(error))
        return None
    return result.output if result.exit_code == 0 and not result.truncated else None


async def count_passed(
    sandbox: Sandbox, task: Task, checks: Sequence[Check], kind: str, *, seconds_left: Seconds
) -> int | None:
    """How many of these checks pass, run one after another; ``None`` where there are none, or no
    time is left to run them all: attempts are compared by all checks or not at all. One that cannot
    be run, or not in time, has not passed. ``kind`` and position are the action's id, so that a
    check whose result was lost on the way is not run again.

    Raises: ``SandboxLost``.
    """
    passed = 0
    for number, check in enumerate(checks):
        left = seconds_left()
        if left is not None and left <= 0:
            return None
        action_id = f"{kind}-{number}"
        timeout = check.timeout if left is None else min(check.timeout, left)
        try:
            await write_files(sandbox, check.files)
            command = run_by(task, check.command)
            result = await sandbox.execute(command, action_id=action_id, timeout=timeout)
        except SandboxLost:
            raise
        except SandboxError as error:
            log.warning("a check was not run: not passed", check=action_id, error=str(error))
            continue
        if result.timed_out and timeout < check.timeout:
            return None
        passed += not result.timed_out and result.exit_code == 0
    return passed if checks else None


async def write_files(sandbox: Sandbox, files: Mapping[str, str]) -> None:
    """Write a task's files. Raises: ``SandboxError`` for a path that is not relative to the
    working folder, or leads out of it, before anything is written."""
    try:
        check_files(files)
    except ValueError as error:
        raise SandboxError(str(error)) from error
    await asyncio.gather(*(sandbox.write(path, text) for path, text in files.items()))
