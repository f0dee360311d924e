"""What a run makes of hostile commands, in real sandboxes: the agent is told, the run goes on,
and what was done until then is kept."""

from __future__ import annotations

import asyncio
import time

import pytest

from pilotfish import Check, Evaluation, Task
from pilotfish.strategy import Lookahead, RolloutSettings, Selection, Strategy
from search.fakes import FakePolicy, MemoryJournal, turn_by_turn
from search.run import Run
from service.sandboxes.bubblewrap import BubblewrapProvider

TASK = Task(
    id="t",
    statement="s",
    image="host",
    setup=["echo ready > state"],
    evaluation=Evaluation(command="grep -q ready state && grep -q done state"),
)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("sleep 1000", "<returncode>timeout</returncode>"),
        ("trap '' TERM INT; while :; do :; done", "<returncode>timeout</returncode>"),
        ("head -c 100000000 /dev/zero | tr '\\0' x", "characters left out"),
        (":(){ :|:& };:", "<returncode>"),
        ("kill -9 -1", "<returncode>"),
    ],
)
async def test_the_agent_is_told_and_the_run_goes_on(
    bubblewrap: BubblewrapProvider, command: str, told: str
) -> None:
    turns = [[f"```bash\n{c}\n```"] for c in (command, "echo done >> state", "submit")]
    run = Run(
        TASK,
        FakePolicy(turn_by_turn(*turns)),
        None,
        bubblewrap,
        Strategy(lookahead=Lookahead(k=1), rollout=RolloutSettings(command_timeout=1)),
        MemoryJournal(),
    )
    began = time.monotonic()
    [trajectory] = (await asyncio.wait_for(run.run(), 60)).trajectories
    assert (trajectory.exit_status, trajectory.reward) == ("Submitted", 1.0)
    assert told in trajectory.steps[0].replies[0].text
    assert len(trajectory.steps[0].replies[0].text) < 11_000
    assert time.monotonic() - began < 30


async def test_the_tasks_own_tests_run_in_what_the_agent_left(
    bubblewrap: BubblewrapProvider,
) -> None:
    task = TASK.model_copy(
        update={
            "regression_tests": [
                Check(command="sh old/test.sh", files={"old/test.sh": "grep -q ready state"}),
                Check(command="test -e evaluated"),
                Check(command="sleep 1000", timeout=0.5),
            ],
            "generated_tests": [Check(command="grep -q done state && test -e old/test.sh")],
            "submission": "tail -n 1 state",
            "evaluation": Evaluation(command="grep -q done state", files={"evaluated": ""}),
        }
    )
    turns = [[f"```bash\n{c}\n```"] for c in ("echo done >> state", "submit")]
    run = Run(
        task,
        FakePolicy(turn_by_turn(*turns)),
        None,
        bubblewrap,
        Strategy(lookahead=Lookahead(k=1), selection=Selection(rule="hybrid")),
        MemoryJournal(),
    )
    [trajectory] = (await asyncio.wait_for(run.run(), 60)).trajectories
    assert trajectory.submission == "done\n"
    assert (trajectory.regression_passed, trajectory.generated_passed) == (1, 1)
    assert (trajectory.exit_status, trajectory.reward) == ("Submitted", 1.0)


async def test_the_tasks_folders_stand_first_on_path_in_every_command(
    bubblewrap: BubblewrapProvider,
) -> None:
    tool = "printf '#!/bin/sh\\necho mine >>/tmp/used\\n' >'/tmp/my bin/ls'"
    task = Task(
        id="t",
        statement="s",
        image="host",
        path=["/nowhere", "/tmp/my bin"],
        setup=[f"mkdir '/tmp/my bin' && {tool} && chmod +x '/tmp/my bin/ls'", "ls"],
        regression_tests=[Check(command="ls")],
        submission="ls; cat /tmp/used",
        evaluation=Evaluation(command='ls; test "$(wc -l </tmp/used)" = 5'),
    )
    turns = [[f"```bash\n{c}\n```"] for c in ("ls", "submit")]
    strategy = Strategy(lookahead=Lookahead(k=1), selection=Selection(rule="hybrid"))
    run = Run(task, FakePolicy(turn_by_turn(*turns)), None, bubblewrap, strategy, MemoryJournal())
    [trajectory] = (await asyncio.wait_for(run.run(), 60)).trajectories
    assert trajectory.submission == 3 * "mine\n"
    assert (trajectory.regression_passed, trajectory.reward) == (1, 1.0)


@pytest.mark.parametrize("folder", ["bin", "/a:/b", "", "/a\0"])
def test_a_folder_that_cannot_stand_on_path_is_refused(folder: str) -> None:
    with pytest.raises(ValueError, match="path"):
        Task(id="t", statement="s", image="host", path=[folder])
