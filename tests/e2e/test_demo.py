"""The demo's loop and its report, on the stack that the other end-to-end tests use."""

from __future__ import annotations

import io

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
