"""A batch's folder: what is on disk of each task, and what is derived from it. Knows no service.

Of a task: ``state.json`` (which try it is, and its run), written before the run is made;
``trajectories.jsonl`` and ``attempt_N/ID.traj.json``; ``result.json``, written last: a task that
has one is through. ``preds.json``, ``exit_statuses.yaml`` and ``summary.json`` are made from
results, and can be made again at any time. All files are whole or not there.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from pilotfish.atomic import TEMPORARY, write, writing
from pilotfish.batch.results import Attempt, Result, Summary, Tally
from pilotfish.mini_swe_agent import document_of
from pilotfish.trajectory import Trajectory

Record = TypeVar("Record", bound=BaseModel)


class FolderError(Exception):
    """The folder cannot be used for this batch; the text says why."""


class State(BaseModel):
    """Where a task stands."""

    model_config = ConfigDict(extra="forbid")

    task_id: str
    number: int = 0
    """Of the try, from 0."""
    run_id: str | None = None
    """``None`` until the service has answered: the run may be there all the same, under its
    key."""


class Made(BaseModel):
    """What a folder was made for. It is the same at each start, or the folder is refused."""

    model_config = ConfigDict(extra="forbid")

    id: str
    settings: str
    """A digest of whatever decides what a run is."""
    tasks: str
    """A digest of the files that the tasks come from."""


class BatchFolder:
    """``path`` is made. Use ``locked`` around all writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = ""

    # ---- whose it is

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else works here meanwhile. The lock goes with its process, however that ends.
        Raises: ``FolderError``."""
        import fcntl  # not on Windows, where the rest of the client runs

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / "batch.lock").open("a+")
        except OSError as error:
            raise FolderError(f"cannot write {self.path}: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise FolderError(
                    f"another command works in {self.path}: process {holder}; wait for its end, or"
                    " give another folder"
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def open_for(self, settings: str, tasks: str, *, anew: bool = False) -> None:
        """Say what the folder is for. Raises: ``FolderError`` where it is for something else; with
        ``anew`` all that it holds of that is removed instead."""
        path = self.path / "batch.json"
        made = self._read(path, Made)
        if made is not None and (made.settings, made.tasks) != (settings, tasks):
            if not anew:
                what = "settings" if made.settings != settings else "tasks"
                raise FolderError(
                    f"{self.path} was made with other {what}: give another folder, or"
                    " --redo-existing to lose what it holds"
                )
            for result in [r.parent for r in self._files("state.json")]:
                shutil.rmtree(result)
            made = None
        if made is None:
            made = Made(id=uuid.uuid4().hex, settings=settings, tasks=tasks)
            write(path, made.model_dump_json(indent=1) + "\n")
        self.id = made.id
        for left in [*self.path.glob(f"{TEMPORARY}*"), *self.path.glob(f"*/**/{TEMPORARY}*")]:
            left.unlink()

    # ---- one task

    def of(self, task_id: str) -> Path:
        return self.path / folder_name(task_id)

    def key(self, state: State) -> str:
        """Names one try of one task in this folder to the service, for ever."""
        return f"batch-{self.id}-{uuid.uuid5(uuid.NAMESPACE_OID, state.task_id).hex}-{state.number}"

    def state(self, task_id: str) -> State | None:
        return self._read(self.of(task_id) / "state.json", State)

    def result(self, task_id: str) -> Result | None:
        return self._read(self.of(task_id) / "result.json", Result)

    def is_done(self, task_id: str) -> bool:
        result = self.result(task_id)
        return result is not None and result.outcome == "done"

    def put_state(self, state: State) -> None:
        write(self.of(state.task_id) / "state.json", state.model_dump_json() + "\n")

    def put_result(self, result: Result) -> None:
        path = self.of(result.task_id) / "result.json"
        write(path, result.model_dump_json(indent=1) + "\n")

    def next_try(self, task_id: str) -> State:
        """Forget what the last try came to. Its result goes first: killed between the two, the next
        start finds the last try's run again."""
        last = self.state(task_id)
        state = State(task_id=task_id, number=0 if last is None else last.number + 1)
        (self.of(task_id) / "result.json").unlink(missing_ok=True)
        self.put_state(state)
        return state

    async def put_trajectories(
        self, task_id: str, trajectories: AsyncIterator[Trajectory], selected: int | None
    ) -> tuple[list[Attempt], str | None]:
        """Write them as they come, one in memory at a time; what they came to, and the submission
        of the selected one."""
        folder, name = self.of(task_id), f"{folder_name(task_id)}.traj.json"
        attempts: list[Attempt] = []
        submission: str | None = None
        with ExitStack() as stack:
            lines = stack.enter_context(writing(folder / "trajectories.jsonl"))
            async for trajectory in trajectories:
                number = len(attempts)
                lines.write(trajectory.model_dump_json(exclude_defaults=True).encode() + b"\n")
                document = json.dumps(document_of(trajectory), indent=1)
                write(folder / f"attempt_{number}" / name, document + "\n")
                attempts.append(Attempt.of(number, trajectory))
                if number == selected:
                    submission = trajectory.submission
        for other in folder.glob("attempt_*"):  # of an earlier try that made more
            if not other.name[len("attempt_") :].isdigit() or int(other.name[8:]) >= len(attempts):
                shutil.rmtree(other)
        return attempts, submission

    # ---- all of them

    def results(self) -> Iterator[Result]:
        """By name, one in memory at a time."""
        for path in self._files("result.json"):
            found = self._read(path, Result)
            if found is not None:
                yield found

    def derive(self) -> Summary:
        """Write ``preds.json``, ``exit_statuses.yaml`` and ``summary.json`` anew."""
        tally, by_status = Tally(), dict[str, list[str]]()
        with writing(self.path / "preds.json") as preds:
            preds.write(b"{")
            mark = b"\n"
            for result in self.results():
                tally.add(result)
                by_status.setdefault(result.exit_status, []).append(result.task_id)
                if result.outcome == "done":
                    row = {
                        "model_name_or_path": result.model,
                        "instance_id": result.task_id,
                        "model_patch": result.submission or "",
                    }
                    told = f"{json.dumps(result.task_id)}: {json.dumps(row)}"
                    preds.write(mark + told.encode())
                    mark = b",\n"
            preds.write(b"\n}\n")
        write(self.path / "exit_statuses.yaml", _yaml(by_status))
        summary = tally.summary
        write(self.path / "summary.json", summary.model_dump_json(indent=1) + "\n")
        return summary

    def _files(self, name: str) -> list[Path]:
        return sorted(self.path.glob(f"*/{name}"))

    def _read(self, path: Path, kind: type[Record]) -> Record | None:
        try:
            return kind.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise FolderError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def _yaml(by_status: dict[str, list[str]]) -> str:
    """JSON's strings are YAML's too."""
    lines = ["instances_by_exit_status:" + ("" if by_status else " {}")]
    for status, ids in sorted(by_status.items()):
        lines.append(f"  {json.dumps(status)}:")
        lines += [f"    - {json.dumps(task_id)}" for task_id in ids]
    return "\n".join(lines) + "\n"


_TAKEN = ("batch.json", "batch.lock", "preds.json", "summary.json", "exit_statuses.yaml")


def folder_name(task_id: str) -> str:
    """The id where it can be a folder's name, else one like it: quoted, and cut where it is long.

    >>> folder_name("django__django-1"), folder_name("../a b")
    ('django__django-1', '%2E%2E%2Fa%20b')
    """
    name = quote(task_id, safe=" ").replace(" ", "%20")
    if name.startswith(".") or name in _TAKEN:
        name = name.replace(".", "%2E")
    if len(name) > 180:
        name = f"{name[:140]}-{uuid.uuid5(uuid.NAMESPACE_OID, task_id).hex}"
    return name
