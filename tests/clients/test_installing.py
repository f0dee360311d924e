"""The client as it is installed: its wheel and what it depends on, in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "clients" / "python"
HEAVY = {"torch", "transformers", "numpy", "fastapi", "redis", "pilotfish-service"}
UV = (sys.executable, "-m", "uv")
PYTHONS = [f"python3.{minor}" for minor in range(10, 15)]
SMOKE = """
import asyncio, importlib, pkgutil, pilotfish
from pilotfish import AsyncPilotfish, Pilotfish, Task
from pilotfish.errors import ConnectionFailed

for module in pkgutil.walk_packages(pilotfish.__path__, "pilotfish."):
    if not module.name.startswith("pilotfish.adapters."):  # each needs its scaffold
        importlib.import_module(module.name)
nowhere = {"url": "http://127.0.0.1:9", "max_retries": 0}

async def ask():
    async with AsyncPilotfish(**nowhere) as client:
        await client.create_run(Task(id="t", statement="s", image="i"))

for asked in (lambda: Pilotfish(**nowhere).get_run("r"), lambda: asyncio.run(ask())):
    try:
        asked()
    except ConnectionFailed:
        continue
    raise AssertionError("nothing answers there")
"""


def run(*words: object) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def interpreter(name: str) -> str | None:
    """One that runs: pyenv's stand-ins on PATH may not."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders = [
        *os.environ.get("PILOTFISH_PYTHONS", "").split(os.pathsep),
        *map(str, pyenv.glob("versions/*/bin")),
        *os.environ["PATH"].split(os.pathsep),
    ]
    found = [which for folder in folders if folder and (which := shutil.which(name, path=folder))]
    runs = (subprocess.run([one, "-c", ""], capture_output=True).returncode == 0 for one in found)
    return next((one for one, good in zip(found, runs, strict=True) if good), None)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(CLIENT, folder / "source")
    run(*UV, "build", "--quiet", "--wheel", "--out-dir", folder, source)
    [made] = folder.glob("pilotfish-*.whl")
    return made


def installed(wheel: Path, python: str, folder: Path) -> Path:
    """The Python of a new environment that has the wheel and what it depends on."""
    run(*UV, "venv", "--quiet", "--python", python, folder)
    made = folder / "bin" / "python"
    run(*UV, "pip", "install", "--quiet", "--python", made, wheel)
    return made


@pytest.mark.slow
def test_it_installs_without_torch_and_without_the_service(wheel, tmp_path, capsys):
    installed(wheel, sys.executable, tmp_path / "first")  # fills the cache
    began = time.monotonic()
    python = installed(wheel, sys.executable, tmp_path / "second")
    seconds = time.monotonic() - began
    listed = json.loads(run(*UV, "pip", "list", "--python", python, "--format", "json"))
    names = {one["name"].lower() for one in listed}
    assert "pilotfish" in names
    assert not names & HEAVY
    size = sum(f.stat().st_size for f in (tmp_path / "second").rglob("*") if f.is_file())
    with capsys.disabled():
        told = f"{len(names)} packages, {size / 2**20:.0f} MiB"
        print(f"\nthe client in a new environment: {seconds:.1f} s, {told}")
    assert run(tmp_path / "second" / "bin" / "pilotfish", "--help")
    run(python, "-c", SMOKE)


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
def test_it_works_on_every_python_that_is_here(wheel, python, tmp_path):
    found = interpreter(python)
    if found is None:
        pytest.skip(f"no {python} on PATH, in pyenv or in the folders of PILOTFISH_PYTHONS")
    run(installed(wheel, found, tmp_path / "environment"), "-W", "error", "-c", SMOKE)
