"""A task: what an agent is asked to do, where, and (hidden from it) how the result is judged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field

from pilotfish.strict import Strict


def check_files(files: Mapping[str, str]) -> Mapping[str, str]:
    """The same files. Raises: ``ValueError`` for a path that is not relative to the working folder,
    or leads out of it."""
    for path in files:
        pure = PurePosixPath(path)
        if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\0" in path:
            raise ValueError(f"a task's file must lie in its working folder: {path!r} does not")
    return files


Files = Annotated[
    dict[str, str],
    AfterValidator(check_files),
    Field(
        json_schema_extra={
            "propertyNames": {
                "pattern": r"^(?!/)(?!(\./*)+$)(?!([^\u0000]*/)?\.\.(/|$))[^\u0000]+$",
            }
        }
    ),
]


def check_folder(path: str) -> str:
    """The same path. Raises: ``ValueError`` for one that cannot stand on PATH."""
    if not path.startswith("/") or ":" in path or "\0" in path:
        raise ValueError(f"an absolute path of a folder, without a colon: {path!r} is none")
    return path


Folder = Annotated[
    str,
    AfterValidator(check_folder),
    Field(json_schema_extra={"pattern": r"^/[^:\u0000]*$"}),
]
_HOST = r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?(:[1-9][0-9]{0,4})?"


def check_host(host: str) -> str:
    """The same host. Raises: ``ValueError`` for what is not ``NAME`` or ``*.NAME``, with a port if
    need be."""
    if not re.fullmatch(_HOST, host):
        raise ValueError(f"a host is NAME, *.NAME, NAME:PORT or *.NAME:PORT: {host!r} is none")
    return host


Host = Annotated[
    str, AfterValidator(check_host), Field(json_schema_extra={"pattern": f"^{_HOST}$"})
]


class Check(Strict):
    """One test of what an agent left behind: files written after it is done, then one command."""

    files: Files = Field(default_factory=dict)
    """Path (relative to the task's ``workdir``) to content. The agent never sees them."""
    command: str = Field(min_length=1)
    """Run by ``sh`` in ``workdir``; it passes if it exits with 0."""
    timeout: float = Field(default=60.0, gt=0, le=7200)
    """Seconds; a command that takes longer has failed."""


class Evaluation(Check):
    """How a finished attempt is judged: the reward is 1 if it passes, else 0."""


class Task(Strict):
    """One task. ``image`` names the sandbox's image; ``"host"`` is this machine's own file system,
    read-only, which is what the bubblewrap backend offers."""

    id: str = Field(min_length=1, max_length=200)
    statement: str = Field(min_length=1)
    image: str = Field(min_length=1)
    files: Files = Field(default_factory=dict)
    """Path (relative to ``workdir``) to content, written before the agent starts."""
    setup: list[str] = Field(default_factory=list)
    """Commands run in ``workdir`` before the agent starts; one that fails fails the start."""
    workdir: str = "/workspace"
    path: list[Folder] = Field(default_factory=list)
    """Folders of the sandbox that stand first on PATH in each of its commands, the agent's and the
    tests'. Those that are not there do nothing."""
    allow_hosts: list[Host] = Field(default_factory=list, max_length=256)
    """Hosts that its sandbox may speak to by HTTP and HTTPS: ``pypi.org``, ``*.example.org`` (not
    example.org itself), ``host:8443``; without a port 80 and 443. None is no network."""
    memory: int | None = Field(default=None, ge=2**20)
    """Bytes that its sandbox may take; ``None`` leaves it to the backend's settings."""
    submission: str | None = Field(default=None, min_length=1)
    """Command that prints what the agent hands in (``git diff``, say), run when it has submitted,
    before any test: the trajectory keeps it, and equal ones are one answer."""
    evaluation: Evaluation | None = None
    regression_tests: list[Check] = Field(default_factory=list, max_length=256)
    """Tests that passed before the agent began, for ``selection.rule`` ``hybrid``. They run one
    after another, before the evaluation, in the sandbox that the agent left; what they leave there,
    the evaluation finds."""
    generated_tests: list[Check] = Field(default_factory=list, max_length=256)
    """Tests that somebody, a model say, wrote for what is asked: less to be trusted."""
