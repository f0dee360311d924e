"""Tests that selection goes by: when they run, how they count, what one that fails costs."""

import contextlib
from contextlib import asynccontextmanager

import pytest

from pilotfish import Observation, Selection, Task
from pilotfish.strategy import RolloutSettings
from search.errors import JournalError, SandboxError, SandboxLost
from search.evaluation import count_passed
from search.fakes import (
    FakeCritic,
    FakePolicy,
    FakeSandbox,
    FakeSandboxes,
    MemoryJournal,
    turn_by_turn,
)
from search.replay import replay
from tests.search.test_run import ONE, TASK, THREE_TURNS, bash, make_run, respond

TESTS = {
    "regression_tests": [
        {"command": "old test", "files": {"old.py": "o"}},
        {"command": "boom"},
        {"command": "other old test"},
    ],
    "generated_tests": [{"command": "new test", "files": {"new.py": "n"}}],
}
TESTED = Task.model_validate(TASK.model_dump() | TESTS)
HYBRID = Selection(n=1, rule="hybrid")


async def test_checks_run_after_the_agent_and_before_the_evaluation_and_are_counted():
    sandboxes, journal = FakeSandboxes(respond), MemoryJournal()
    run = make_run(
        FakePolicy(THREE_TURNS),
        task=TESTED, sandboxes=sandboxes, journal=journal, lookahead=ONE, selection=HYBRID,
    )  # fmt: skip
    [trajectory] = (await run.run()).trajectories
    assert (trajectory.regression_passed, trajectory.generated_passed) == (2, 1)
    assert trajectory.reward == 1.0
    [sandbox] = sandboxes.all.values()
    assert sandbox.ran[2:] == ["old test", "boom", "other old test", "new test", "run hidden tests"]
    assert list(sandbox.files) == ["a.py", "old.py", "new.py", "hidden.py"]
    [begun] = replay(await journal.entries()).values()
    assert begun.trajectory == trajectory


@pytest.mark.parametrize(
    ("task", "rule", "turns"),
    [
        (TESTED, "critic", THREE_TURNS),
        (TASK, "hybrid", THREE_TURNS),
        (TESTED, "hybrid", turn_by_turn([bash("ls")])),
    ],
    ids=["another rule", "no tests", "not submitted"],
)
async def test_checks_run_only_where_they_are_asked_for(task, rule, turns):
    sandboxes = FakeSandboxes(respond)
    run = make_run(
        FakePolicy(turns),
        task=task, sandboxes=sandboxes, lookahead=ONE, selection=Selection(rule=rule),
        rollout=RolloutSettings(max_steps=4),
    )  # fmt: skip
    [trajectory] = (await run.run()).trajectories
    assert (trajectory.regression_passed, trajectory.generated_passed) == (None, None)
    assert not any("test" in c for c in next(iter(sandboxes.all.values())).ran if "hidden" not in c)


async def test_of_several_attempts_the_one_that_passes_most_is_returned():
    booms = []

    def second_passes(command):
        if command == "boom":
            booms.append(command)
            if len(booms) != 2:
                raise ValueError("failed")
        return "ok"

    qs = iter([0.9, 0.5, 0.8])
    critic = FakeCritic(lambda state, action: next(qs))
    critic.every_turn = False
    run = make_run(
        FakePolicy(turn_by_turn([bash("ls")], [bash("submit")])),
        task=TESTED, critic=critic, sandboxes=FakeSandboxes(second_passes), lookahead=ONE,
        selection=Selection(n=3, rule="hybrid", concurrency=1),
    )  # fmt: skip
    result = await run.run()
    assert [t.last_q for t in result.trajectories] == [0.9, 0.5, 0.8]
    assert [t.regression_passed for t in result.trajectories] == [2, 3, 2]
    assert (result.selected, result.ranking, result.reason) == (1, [1, 0, 2], "hybrid")


async def test_a_check_that_cannot_be_run_or_not_in_time_has_not_passed():
    class Failing(FakeSandboxes):
        @asynccontextmanager
        async def start(self, task, *, labels=None):
            async with super().start(task, labels=labels) as sandbox:
                execute = sandbox.execute

                async def failing(command, **options):
                    if command == "old test":
                        raise SandboxError("it does not run")
                    if command == "new test":
                        return Observation(timed_out=True)
                    return await execute(command, **options)

                sandbox.execute = failing
                yield sandbox

    run = make_run(
        FakePolicy(THREE_TURNS),
        task=TESTED, sandboxes=Failing(respond), lookahead=ONE, selection=HYBRID,
    )  # fmt: skip
    [trajectory] = (await run.run()).trajectories
    assert (trajectory.regression_passed, trajectory.generated_passed) == (1, 0)
    assert (trajectory.exit_status, trajectory.reward) == ("Submitted", 1.0)


async def test_a_sandbox_that_dies_under_its_checks_is_replaced():
    class Dying(FakeSandboxes):
        @asynccontextmanager
        async def start(self, task, *, labels=None):
            async with super().start(task, labels=labels) as sandbox:
                first, execute = len(self.all) == 1, sandbox.execute

                async def dying(command, **options):
                    if command == "new test" and first:
                        raise SandboxLost("gone")
                    return await execute(command, **options)

                sandbox.execute = dying
                yield sandbox

    run = make_run(
        FakePolicy(THREE_TURNS),
        task=TESTED, sandboxes=Dying(respond), lookahead=ONE, selection=HYBRID,
    )  # fmt: skip
    lost, second = (await run.run()).trajectories
    assert lost.exit_status == "SandboxLost"
    assert (second.regression_passed, second.generated_passed) == (2, 1)


async def test_attempts_that_the_budget_left_no_time_to_test_have_no_counts():
    sandbox = FakeSandbox("s", respond)
    left = iter([5.0, 0.0])
    counted = await count_passed(
        sandbox, TESTED, TESTED.regression_tests, "regression", seconds_left=lambda: next(left)
    )
    assert counted is None
    assert sandbox.ran == ["old test"]


@pytest.mark.parametrize("crash_after", range(1, 9))
async def test_a_run_that_is_continued_runs_no_check_twice(crash_after):
    sandboxes = FakeSandboxes(respond)
    journal = MemoryJournal(crash_after=crash_after)
    policy = FakePolicy(turn_by_turn([bash("ls")], [bash("pwd")], [bash("submit")]))
    given = {
        "task": TESTED, "sandboxes": sandboxes, "journal": journal, "lookahead": ONE,
        "selection": HYBRID,
    }  # fmt: skip
    with contextlib.suppress(ExceptionGroup, JournalError):
        await make_run(policy, **given).run()
    [trajectory] = (await make_run(policy, **given).run()).trajectories
    assert (trajectory.regression_passed, trajectory.generated_passed) == (2, 1)
    ran = [command for sandbox in sandboxes.all.values() for command in sandbox.ran]
    assert ran[2:] == ["old test", "boom", "other old test", "new test", "run hidden tests"]


HANDS_IN = Task.model_validate(TASK.model_dump() | {"submission": "git diff"})


async def test_what_is_submitted_is_read_before_the_evaluation_and_journaled():
    sandboxes, journal = FakeSandboxes(respond), MemoryJournal()
    run = make_run(
        FakePolicy(THREE_TURNS), task=HANDS_IN, sandboxes=sandboxes, journal=journal, lookahead=ONE
    )
    [trajectory] = (await run.run()).trajectories
    [sandbox] = sandboxes.all.values()
    assert sandbox.ran[2:] == ["git diff", "run hidden tests"]
    assert trajectory.submission == respond("git diff")
    [begun] = replay(await journal.entries()).values()
    assert begun.trajectory == trajectory


@pytest.mark.parametrize(
    ("command", "turns"),
    [("boom", THREE_TURNS), ("git diff", turn_by_turn([bash("ls")]))],
    ids=["the command fails", "nothing was submitted"],
)
async def test_without_anything_to_read_there_is_no_submission(command, turns):
    task = HANDS_IN.model_copy(update={"submission": command})
    run = make_run(FakePolicy(turns), task=task, sandboxes=FakeSandboxes(respond), lookahead=ONE)
    [trajectory] = (await run.run()).trajectories
    assert trajectory.submission is None
    assert trajectory.reward == (1.0 if command == "boom" else 0.0)
