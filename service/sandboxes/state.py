"""What is known of this machine's bubblewrap sandboxes, in a folder that other processes read too:
one folder a sandbox, with its socket and its record. Knows nothing of how one is started.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from search.errors import SandboxError
from service.local.process import ProcessId

MAX_SOCKET_PATH = 100
"""Linux takes 107 bytes for the path of a Unix socket."""
BEING_MADE = 30.0
"""Seconds that a folder may be without a record before it counts as left over."""


class Record(BaseModel):
    """One live sandbox."""

    model_config = ConfigDict(extra="forbid")

    id: str
    pid: int
    started: int
    """With ``pid``, the sandbox's first process, whose end is the sandbox's end."""
    workdir: str
    labels: dict[str, str]
    expires: float
    """Unix time at which it ends by itself."""

    @property
    def process(self) -> ProcessId:
        return ProcessId(self.pid, self.started)


class StateFolder:
    """The folder of all sandboxes of one user of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.mkdir(exist_ok=True, mode=0o700)
        if path.stat().st_uid != os.getuid() or path.is_symlink():
            # Somebody else could take our sandboxes' sockets away.
            raise SandboxError(f"{path} belongs to another user")

    @staticmethod
    def default() -> Path:
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        base = Path(runtime) / "pilotfish" if runtime else Path(f"/tmp/pilotfish-{os.getuid()}")
        return base / "sandboxes"

    def listen(self, sandbox_id: str) -> socket.socket:
        """Make the sandbox's folder, and the listening socket that is handed into the sandbox."""
        folder = self.path / sandbox_id
        folder.mkdir(mode=0o700)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with self.address(sandbox_id) as address:
            listener.bind(address)
        listener.listen(64)
        return listener

    @contextmanager
    def address(self, sandbox_id: str) -> Iterator[str]:
        """A path of the socket that is short enough to bind or connect to."""
        path = str(self.path / sandbox_id / "socket")
        if len(path.encode()) <= MAX_SOCKET_PATH:
            yield path
            return
        folder = os.open(self.path / sandbox_id, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{folder}/socket"
        finally:
            os.close(folder)

    def log(self, sandbox_id: str) -> Path:
        """What bubblewrap and the guest server complain of."""
        return self.path / sandbox_id / "log"

    def said(self, sandbox_id: str) -> str:
        try:
            return self.log(sandbox_id).read_text(errors="replace")[-4000:].strip()
        except OSError:
            return ""

    def save(self, record: Record) -> None:
        file = self.path / record.id / "sandbox.json"
        fresh = file.with_suffix(".new")
        fresh.write_text(record.model_dump_json())
        fresh.rename(file)

    def load(self, sandbox_id: str) -> Record | None:
        """``None`` where there is no such record; the sandbox may still have ended."""
        if "/" in sandbox_id or sandbox_id.startswith("."):
            return None
        try:
            return Record.model_validate_json(
                (self.path / sandbox_id / "sandbox.json").read_bytes()
            )
        except (OSError, ValidationError):
            return None

    def all(self) -> list[Record]:
        records = (self.load(folder.name) for folder in self.path.iterdir())
        return [record for record in records if record is not None]

    def left_over(self) -> list[str]:
        """Folders whose maker died before there was a record."""
        now = time.time()
        found = []
        for folder in self.path.iterdir():
            try:
                if self.load(folder.name) is None and now - folder.stat().st_mtime > BEING_MADE:
                    found.append(folder.name)
            except FileNotFoundError:
                continue
        return found

    def remove(self, sandbox_id: str) -> None:
        shutil.rmtree(self.path / sandbox_id, ignore_errors=True)
