"""How a finished attempt is judged: the task's hidden files, then its command, in the sandbox that
the agent left. Knows nothing of where the sandbox is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from pilotfish import Task
from pilotfish.task import check_files
from search.contracts import Sandbox
from search.errors import SandboxError


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
    result = await sandbox.execute(
        evaluation.command, action_id="evaluation", timeout=evaluation.timeout
    )
    if result.timed_out:
        return 0.0, f"the evaluation did not end in {evaluation.timeout:g} s: counted as failed"
    return (1.0 if result.exit_code == 0 else 0.0), ""


async def write_files(sandbox: Sandbox, files: Mapping[str, str]) -> None:
    """Write a task's files. Raises: ``SandboxError`` for a path that is not relative to the
    working folder, or leads out of it, before anything is written."""
    try:
        check_files(files)
    except ValueError as error:
        raise SandboxError(str(error)) from error
    await asyncio.gather(*(sandbox.write(path, text) for path, text in files.items()))
