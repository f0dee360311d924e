"""An environment of a peer's own, made once under ``build/`` from its package."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path("build/peers")


def environment(name: str, requirement: str, instead: Sequence[str] = ()) -> Path:
    """The folder of its commands. ``instead`` is installed in place of what the package says that
    it needs. Raises: ``subprocess.CalledProcessError``."""
    folder = FOLDER / name
    commands, made = folder / "bin", folder / "made"
    if not made.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(commands / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        if instead:
            subprocess.run([*install, *instead], check=True, stderr=subprocess.PIPE)
            install.append("--no-deps")
        subprocess.run([*install, requirement], check=True, stderr=subprocess.PIPE)
        made.touch()
    return commands
