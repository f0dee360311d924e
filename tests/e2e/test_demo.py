"""The demo's loop and its report, on the stack that the other end-to-end tests use; and what the
command leaves behind when it is interrupted."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from examples.bugfix.collect import tasks_of
from examples.bugfix.demo import Demo, rounds, table_of, write_report
from pilotfish import AsyncPilotfish


@pytest.mark.vllm
async def test_the_demo_shows_both_modes_and_writes_its_report(stack_url, tmp_path):
    demo = Demo(tmp_path, attempts=2)
    screen = Console(file=io.StringIO(), width=120)
    tasks = tasks_of("heldout", 3)
    async with AsyncPilotfish(stack_url) as client:
        await rounds(demo, client, tasks, minutes=5, at_once=3, screen=screen)
    assert demo.finished == {task.id for task in tasks}
    screen.print(table_of(demo))
    assert demo.decisions > 0
    assert demo.degraded == 0
    shown = screen.file.getvalue()
    assert "3 held-out bugs, 2 attempts each" in shown
    for name in ("policy alone", "selection, N=2", "lookahead, K=4", "both, K=4 N=2"):
        assert name in shown
    page = write_report(demo, 60.0).read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "<script" not in page


@pytest.mark.vllm
async def test_no_new_task_is_begun_when_the_time_is_up(stack_url, tmp_path):
    demo = Demo(tmp_path, attempts=1)
    screen = Console(file=io.StringIO())
    async with AsyncPilotfish(stack_url) as client:
        tasks = tasks_of("heldout", 2)
        await rounds(demo, client, tasks, minutes=0, at_once=1, screen=screen)
    assert not demo.finished


def _having(word: bytes, file: str) -> set[int]:
    """Processes that have ``word`` in that file of /proc."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word in (folder / file).read_bytes():
                found.add(int(folder.name))
    return found


def _sandboxes() -> set[int]:
    return _having(b"/run/pilotfish/guest.py", "cmdline")


def _until(true: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("when", "number"),
    [
        ("while vLLM starts", signal.SIGINT),
        ("while vLLM starts", signal.SIGTERM),
        ("while agents work", signal.SIGINT),
    ],
)
def test_an_interrupted_demo_leaves_nothing(when, number, tmp_path):
    mark, before, temporary = uuid.uuid4().hex, _sandboxes(), set(Path("/tmp").glob("pilotfish-*"))
    command = [sys.executable, "-m", "examples.bugfix.demo", "--out", str(tmp_path / "demo")]
    demo = subprocess.Popen(
        command,
        env={**os.environ, "TEST_MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        if when == "while vLLM starts":
            ours = mark.encode()
            _until(lambda: len(_having(ours, "environ") & _having(b"vllm", "cmdline")) >= 2, 120)
        else:
            _until(lambda: _sandboxes() - before, 300)
        demo.send_signal(number)
        said, _ = demo.communicate(timeout=60)
    finally:
        demo.kill()
    assert demo.returncode == 130, said
    assert "stopped; nothing is left running" in said
    assert "Traceback" not in said
    assert not _having(mark.encode(), "environ")
    assert _sandboxes() <= before
    assert set(Path("/tmp").glob("pilotfish-*")) <= temporary
