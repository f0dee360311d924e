"""The reward of a finished attempt: hidden tests, run where the agent worked. Knows no agent."""

from __future__ import annotations

from pilotfish import Task
from search.contracts import Sandbox


async def evaluate(sandbox: Sandbox, task: Task) -> float:
    """Write the task's hidden files and run its command: 1.0 if it exits with 0, else 0.0.

    Raises: ``ValueError`` if the task has no evaluation; ``SandboxLost``, ``SandboxError``.
    """
    if task.evaluation is None:
        raise ValueError(f"task {task.id} has no evaluation")
    for path, text in task.evaluation.files.items():
        await sandbox.write(f"{task.workdir}/{path}", text)
    result = await sandbox.execute(
        task.evaluation.command,
        action_id="evaluation",
        timeout=task.evaluation.timeout,
        cwd=task.workdir,
    )
    return 1.0 if result.exit_code == 0 and not result.timed_out else 0.0
