"""A task's command as its sandbox runs it. Knows nothing of sandboxes."""

from __future__ import annotations

import shlex

from pilotfish import Task


def run_by(task: Task, command: str) -> str:
    """``command`` with the task's folders first on PATH. The lines keep their numbers, which
    shells name in their complaints.

    >>> run_by(Task(id="t", statement="s", image="i", path=["/a/bin"]), "make")
    'export PATH=/a/bin:"$PATH"; make'
    """
    if not task.path:
        return command
    return f'export PATH={shlex.quote(":".join(task.path))}:"$PATH"; {command}'
