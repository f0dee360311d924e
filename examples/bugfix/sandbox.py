"""Runs one command in a throw-away bubblewrap sandbox over a folder; knows no agent or task.

For making demonstrations quickly. The service has sandboxes of its own, which live as long as a
trajectory does.
"""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

# fmt: off
_BWRAP = (
    "bwrap", "--unshare-all", "--die-with-parent", "--clearenv",
    "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/workspace",
    "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib",
    "--symlink", "usr/lib64", "/lib64", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp",
)
# fmt: on


def execute(folder: Path, command: str, timeout: float = 10.0) -> tuple[int, str]:
    """Exit code, and standard output and error together."""
    full = [
        *_BWRAP,
        "--bind",
        str(folder),
        "/workspace",
        "--chdir",
        "/workspace",
        "sh",
        "-c",
        command,
    ]
    try:
        done = subprocess.run(
            full,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, ""
    return done.returncode, done.stdout.decode(errors="replace")


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)


@contextmanager
def workspace(files: Mapping[str, str]) -> Iterator[Path]:
    """A temporary folder with these files."""
    with TemporaryDirectory(prefix="bugfix-") as name:
        write_files(Path(name), files)
        yield Path(name)
