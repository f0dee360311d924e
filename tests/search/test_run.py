"""Trajectories and runs, over the fakes."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from pydantic import ValidationError

from pilotfish import Evaluation, Message, Task, Usage
from pilotfish.strategy import (
    BudgetLimits,
    Lookahead,
    RolloutSettings,
    Sampling,
    Selection,
    Strategy,
)
from search.budget import Budget
from search.errors import (
    BudgetExceeded,
    ContextTooLong,
    JournalError,
    PolicyError,
    SandboxError,
    SandboxLost,
)
from search.fakes import (
    FailingPolicy,
    FakeCritic,
    FakePolicy,
    FakeSandboxes,
    MemoryJournal,
    saying,
    turn_by_turn,
)
from search.replay import replay
from search.run import Run

TASK = Task(
    id="t1",
    statement="fix it",
    image="host",
    files={"a.py": "x"},
    evaluation=Evaluation(command="run hidden tests", files={"hidden.py": "secret"}),
)


def bash(command):
    return f"I do it.\n```bash\n{command}\n```"


def respond(command):
    if command == "boom":
        raise ValueError("no such command")
    return f"ran {command}\n"


def make_run(policy, *, critic=None, sandboxes=None, journal=None, task=TASK, **strategy):
    """A run that waits for nothing that is away, unless told to."""
    rollout = strategy.pop("rollout", None) or RolloutSettings(patience=0)
    if "patience" not in rollout.model_fields_set:
        rollout = rollout.model_copy(update={"patience": 0})
    strategy = {"replacement_pause": 0, "rollout": rollout} | strategy
    return Run(
        task,
        policy,
        critic,
        sandboxes or FakeSandboxes(respond),
        Strategy(**strategy),
        journal or MemoryJournal(),
    )


ONE = Lookahead(k=1)
THREE_TURNS = turn_by_turn([bash("ls")], [bash("boom")], [bash("submit")])


async def test_a_trajectory_acts_observes_and_ends_by_submitting():
    sandboxes = FakeSandboxes(respond)
    result = await make_run(FakePolicy(THREE_TURNS), sandboxes=sandboxes, lookahead=ONE).run()
    [trajectory] = result.trajectories
    assert trajectory.exit_status == "Submitted"
    assert trajectory.reward == 1.0
    assert [m.role for m in trajectory.messages] == [
        "system", "user", "assistant", "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert "<returncode>0</returncode>\n<output>\nran ls" in trajectory.messages[3].text
    assert "<returncode>1</returncode>" in trajectory.messages[5].text
    [sandbox] = sandboxes.all.values()
    assert sandbox.ran == ["ls", "boom", "run hidden tests"]
    assert sandbox.files == {"a.py": "x", "hidden.py": "secret"}
    assert sandbox.closed


@pytest.mark.parametrize(
    ("settings", "turns", "status", "steps"),
    [
        ({"rollout": RolloutSettings(max_steps=2)}, [bash("ls")], "StepLimitExceeded", 2),
        ({"budget": BudgetLimits(steps=3)}, [bash("ls")], "StepLimitExceeded", 3),
        ({"budget": BudgetLimits(seconds=1e-9)}, [bash("ls")], "TimeLimitExceeded", 0),
        ({"rollout": RolloutSettings(max_seconds=1e-9)}, [bash("ls")], "TimeLimitExceeded", 0),
        ({}, ["no command at all"], "FormatError", 3),
        ({}, [bash("ls") + bash("ls")], "FormatError", 3),
    ],
)
async def test_every_limit_has_its_exit_status_and_keeps_what_was_done(
    settings, turns, status, steps
):
    result = await make_run(FakePolicy(turn_by_turn(turns)), lookahead=ONE, **settings).run()
    [trajectory] = result.trajectories
    assert (trajectory.exit_status, len(trajectory.steps)) == (status, steps)
    assert trajectory.reward == 0.0
    assert trajectory.exit_message


async def test_a_token_cap_is_checked_before_it_is_spent():
    def script(state, n):
        read = sum(len(m.text) for m in state) // 3
        turns = saying(bash("ls"), bash("pwd"))(state, n)
        return [t.model_copy(update={"prompt_tokens": read}) for t in turns]

    lookahead = Lookahead(k=2, sampling=Sampling(max_tokens=10))
    critic = FakeCritic(lambda s, a: 0.5)
    steps = []
    for tokens in range(50, 1000, 50):
        budget = BudgetLimits(tokens=tokens)
        run = make_run(FakePolicy(script), critic=critic, lookahead=lookahead, budget=budget)
        [trajectory] = (await run.run()).trajectories
        assert trajectory.exit_status == "TokenLimitExceeded"
        assert run.budget.usage.total_tokens <= tokens
        assert trajectory.usage == run.budget.usage
        steps.append(len(trajectory.steps))
    assert steps[0] == 0
    assert steps[-1] > 2


def test_concurrent_steps_cannot_together_spend_what_one_was_allowed():
    budget = Budget(BudgetLimits(tokens=100))
    with budget.step(60) as cost:
        with pytest.raises(BudgetExceeded, match="40 of 100 are left"), budget.step(60):
            pass
        cost.usage = Usage(completion_tokens=10)
    with budget.step(60):
        pass
    assert budget.usage.total_tokens == 10


async def test_a_context_too_long_ends_the_trajectory_with_its_name():
    def script(state, n):
        if len(state) > 2:
            raise ContextTooLong("5000 tokens; 4096 fit")
        return saying(bash("ls"))(state, n)

    [trajectory] = (await make_run(FakePolicy(script), lookahead=ONE).run()).trajectories
    assert trajectory.exit_status == "ContextLimitExceeded"
    assert "4096 fit" in trajectory.exit_message
    assert len(trajectory.steps) == 1


async def test_a_policy_that_is_not_there_is_an_infrastructure_failure_and_is_replaced():
    result = await make_run(FailingPolicy(), lookahead=ONE, max_replacements=2).run()
    assert [t.exit_status for t in result.trajectories] == ["PolicyError"] * 3
    assert all(t.reward is None for t in result.trajectories)


async def test_a_sandbox_that_does_not_start_is_replaced():
    sandboxes = FakeSandboxes(respond)
    sandboxes.fail_next = 1
    result = await make_run(FakePolicy(THREE_TURNS), sandboxes=sandboxes, lookahead=ONE).run()
    assert [t.exit_status for t in result.trajectories] == ["SandboxError", "Submitted"]
    assert result.selected == 1


async def test_a_sandbox_lost_in_mid_run_is_said_and_replaced():
    def dying(command):
        if command == "ls" and len(sandboxes.all) == 1:
            raise SandboxLost("killed")
        return ""

    sandboxes = FakeSandboxes(dying)
    result = await make_run(FakePolicy(THREE_TURNS), sandboxes=sandboxes, lookahead=ONE).run()
    assert [t.exit_status for t in result.trajectories] == ["SandboxLost", "Submitted"]


async def test_what_the_infrastructure_failed_is_not_selected():
    def script(state, n):
        if len(state) > 2:
            raise PolicyError("the endpoint went away")
        return saying(bash("ls"))(state, n)

    result = await make_run(FakePolicy(script), lookahead=ONE, max_replacements=1).run()
    assert [t.exit_status for t in result.trajectories] == ["PolicyError"] * 2
    assert (result.selected, result.ranking, result.reason) == (None, [], "none")


@pytest.mark.parametrize("error", [SandboxLost("the server is away"), OSError("busy")])
async def test_a_sandbox_that_cannot_be_closed_costs_nothing_that_was_done(error):
    class Sticky(FakeSandboxes):
        @asynccontextmanager
        async def start(self, task, *, labels=None):
            async with super().start(task, labels=labels) as sandbox:
                yield sandbox
            raise error

    run = make_run(FakePolicy(THREE_TURNS), sandboxes=Sticky(respond), lookahead=ONE)
    [trajectory] = (await run.run()).trajectories
    assert (trajectory.exit_status, trajectory.reward) == ("Submitted", 1.0)
    ends = [e for e in await run.journal.entries() if e["kind"] == "trajectory_ended"]
    assert len(ends) == 1


async def test_a_sandbox_that_takes_for_ever_to_start_meets_the_budgets_time():
    class Slow(FakeSandboxes):
        @asynccontextmanager
        async def start(self, task, *, labels=None):
            await asyncio.Event().wait()
            yield

    run = make_run(
        FakePolicy(THREE_TURNS),
        sandboxes=Slow(respond),
        lookahead=ONE,
        budget=BudgetLimits(seconds=0.1),
    )
    [trajectory] = (await asyncio.wait_for(run.run(), 5)).trajectories
    assert trajectory.exit_status == "TimeLimitExceeded"
    assert "no sandbox started" in trajectory.exit_message


async def test_trajectories_under_way_at_once_are_bounded():
    most = 0

    class Counting(FakeSandboxes):
        @asynccontextmanager
        async def start(self, task, *, labels=None):
            nonlocal most
            async with super().start(task, labels=labels) as sandbox:
                most = max(most, sum(not s.closed for s in self.all.values()))
                yield sandbox

    policy = FakePolicy(THREE_TURNS, delay=0.001)
    selection = Selection(n=6, concurrency=2)
    await make_run(policy, sandboxes=Counting(respond), lookahead=ONE, selection=selection).run()
    assert most == 2


async def test_a_command_gets_no_more_time_than_the_budget_has():
    timeouts = []

    class Watching(FakeSandboxes):
        @asynccontextmanager
        async def start(self, task, *, labels=None):
            async with super().start(task, labels=labels) as sandbox:
                execute = sandbox.execute

                async def watched(command, *, timeout, **options):
                    timeouts.append(timeout)
                    return await execute(command, timeout=timeout, **options)

                sandbox.execute = watched
                yield sandbox

    for limits in (
        {"budget": BudgetLimits(seconds=5)},
        {"rollout": RolloutSettings(max_seconds=5)},
        {"rollout": RolloutSettings(command_timeout=7)},
    ):
        await make_run(
            FakePolicy(THREE_TURNS),
            sandboxes=Watching(respond),
            lookahead=ONE,
            task=TASK.model_copy(update={"evaluation": None}),
            **limits,
        ).run()
    assert all(0 < timeout <= 5 for timeout in timeouts[:4])
    assert timeouts[4:] == [7, 7]


async def test_a_continued_run_has_spent_what_its_journal_says():
    sandboxes, journal = FakeSandboxes(respond), MemoryJournal(crash_after=6)
    policy = FakePolicy(turn_by_turn([bash("ls")], [bash("pwd")], [bash("submit")]))
    lookahead = Lookahead(k=1, sampling=Sampling(max_tokens=10))
    limited = {"lookahead": lookahead, "budget": BudgetLimits(tokens=1000, steps=9, seconds=600)}
    with pytest.raises(ExceptionGroup):
        await make_run(policy, sandboxes=sandboxes, journal=journal, **limited).run()
    journal._entries[-1]["elapsed"] += 100
    await journal.append("paused")  # what others write has no time of the run's
    run = make_run(policy, sandboxes=sandboxes, journal=journal, **limited)
    await run._resume()
    [begun] = run._known.values()
    assert run.budget.steps == len(begun.trajectory.steps) == 2
    assert run.budget.usage == begun.trajectory.usage
    assert run.budget.usage.completion_tokens > 0
    assert 100 <= run.budget.seconds < 200


def test_a_token_budget_needs_a_bound_of_what_a_candidate_takes():
    budget = BudgetLimits(tokens=100)
    with pytest.raises(ValidationError, match=r"needs lookahead\.sampling\.max_tokens"):
        Strategy(budget=budget)
    for sampling in (Sampling(max_tokens=5), Sampling(extra={"max_completion_tokens": 5})):
        strategy = Strategy(lookahead=Lookahead(sampling=sampling), budget=budget)
        assert strategy.lookahead.sampling.most_tokens == 5


async def test_an_agent_that_makes_the_hidden_tests_unwritable_has_failed():
    class Unwritable(FakeSandboxes):
        @asynccontextmanager
        async def start(self, task, *, labels=None):
            async with super().start(task, labels=labels) as sandbox:
                sandbox.write = self.refuse
                yield sandbox

        async def refuse(self, path, text):
            raise SandboxError("read-only file system")

    run = make_run(FakePolicy(THREE_TURNS), sandboxes=Unwritable(respond), lookahead=ONE)
    [trajectory] = (await run.run()).trajectories
    assert (trajectory.exit_status, trajectory.reward) == ("Submitted", 0.0)


async def test_a_defect_costs_its_own_trajectory_and_not_the_run():
    def script(state, n):
        if len(policy.asked) == 1:
            raise KeyError("defect")
        return THREE_TURNS(state, n)

    policy = FakePolicy(script)
    result = await make_run(policy, lookahead=ONE).run()
    assert [t.exit_status for t in result.trajectories] == ["InternalError", "Submitted"]
    assert result.trajectories[0].exit_message == "KeyError: 'defect'"


async def test_until_submitted_makes_further_attempts_and_counts_them():
    def script(state, n):
        submits = len(policy.asked) > 4
        return saying(bash("submit") if submits else bash("ls"))(state, n)

    policy = FakePolicy(script)
    run = make_run(
        policy,
        lookahead=ONE,
        rollout=RolloutSettings(max_steps=2),
        selection=Selection(until_submitted=True),
    )
    result = await run.run()
    assert [t.attempt for t in result.trajectories] == [0, 1, 2]
    assert [t.submitted for t in result.trajectories] == [False, False, True]
    assert result.finalists == [2]


async def test_until_submitted_stops_at_its_bound():
    run = make_run(
        FakePolicy(saying(bash("ls"))),
        lookahead=ONE,
        rollout=RolloutSettings(max_steps=1),
        selection=Selection(until_submitted=True, max_attempts=3),
    )
    assert len((await run.run()).trajectories) == 4


async def test_an_attempt_that_the_budget_did_not_allow_is_not_what_is_returned():
    policy = FakePolicy(turn_by_turn([bash("ls")]))
    result = await make_run(
        policy,
        lookahead=ONE,
        selection=Selection(until_submitted=True),
        budget=BudgetLimits(steps=3),
        rollout=RolloutSettings(max_steps=3),
    ).run()
    assert [len(t.steps) for t in result.trajectories] == [3, 0]
    assert (result.finalists, result.selected) == ([0], 0)


@pytest.mark.parametrize(
    "limits",
    [{"budget": BudgetLimits(seconds=0.1)}, {"rollout": RolloutSettings(max_seconds=0.1)}],
)
async def test_a_policy_that_decides_for_ever_meets_the_time_limit(limits):
    run = make_run(FakePolicy(THREE_TURNS, delay=30), lookahead=ONE, **limits)
    [trajectory] = (await asyncio.wait_for(run.run(), 5)).trajectories
    assert trajectory.exit_status == "TimeLimitExceeded"


async def test_lookahead_steers_and_selection_returns_the_trajectory_of_highest_last_q():
    policy = FakePolicy(turn_by_turn([bash("ls"), bash("pwd")], [bash("submit"), bash("submit")]))
    critic = FakeCritic(lambda state, action: 0.9 if "pwd" in action.text else 0.1 * len(state))
    run = make_run(policy, critic=critic, lookahead=Lookahead(k=2), selection=Selection(n=3))
    result = await run.run()
    assert all("pwd" in t.steps[0].decision.message.text for t in result.trajectories)
    assert result.selected == 0
    assert result.reason == "argmax"


async def test_positions_are_those_of_the_journal_whatever_reached_it_first():
    class Reordering(MemoryJournal):
        """The first trajectory's entries take longest, as over a pool of connections."""

        async def append(self, kind, **data):
            await asyncio.sleep(0.02 if data.get("slot") == 0 else 0)
            await super().append(kind, **data)

    journal = Reordering()
    run = make_run(
        FakePolicy(THREE_TURNS), journal=journal, lookahead=ONE, selection=Selection(n=3)
    )
    result = await run.run()
    replayed = [begun.trajectory.id for begun in replay(await journal.entries()).values()]
    assert [t.id for t in result.trajectories] == replayed
    assert [t.slot for t in result.trajectories] == [0, 1, 2]


async def test_without_lookahead_the_critic_reads_the_finished_trajectory():
    critic = FakeCritic(lambda state, action: len(state) / 10)
    result = await make_run(FakePolicy(THREE_TURNS), critic=critic, lookahead=ONE).run()
    assert result.trajectories[0].qs == [0.2, 0.4, 0.6]


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("crash_after", range(1, 9))
async def test_a_run_whose_worker_dies_anywhere_is_continued_and_no_action_runs_twice(
    crash_after, applied
):
    """``applied``: the entry that it died at is there."""
    sandboxes = FakeSandboxes(respond)
    journal = MemoryJournal(crash_after=crash_after, applied=applied)
    policy = FakePolicy(turn_by_turn([bash("ls")], [bash("pwd")], [bash("submit")]))
    with pytest.raises(ExceptionGroup if crash_after < 8 else JournalError):
        await make_run(policy, sandboxes=sandboxes, journal=journal, lookahead=ONE).run()
    result = await make_run(policy, sandboxes=sandboxes, journal=journal, lookahead=ONE).run()
    [trajectory] = result.trajectories
    assert (trajectory.exit_status, trajectory.reward) == ("Submitted", 1.0)
    ran = [command for sandbox in sandboxes.all.values() for command in sandbox.ran]
    assert ran == ["ls", "pwd", "run hidden tests"]
    assert len(policy.asked) <= 4  # at most the decision that could not be journaled is made again
    kinds = [entry["kind"] for entry in await journal.entries()]
    assert kinds.count("decided") == 3
    assert kinds.count("observed") == 2
    assert all(sandbox.closed for sandbox in sandboxes.all.values())
    assert len(sandboxes.all) == (1 if applied or crash_after != 1 else 2)


async def test_a_continued_trajectory_keeps_its_time_limit():
    sandboxes, journal = FakeSandboxes(respond), MemoryJournal(crash_after=4)
    policy = FakePolicy(turn_by_turn([bash("ls")], [bash("pwd")], [bash("submit")]))
    limited = {"lookahead": ONE, "rollout": RolloutSettings(max_seconds=60)}
    with pytest.raises(ExceptionGroup):
        await make_run(policy, sandboxes=sandboxes, journal=journal, **limited).run()
    journal._entries[-1]["elapsed"] += 61
    [trajectory] = (
        await make_run(policy, sandboxes=sandboxes, journal=journal, **limited).run()
    ).trajectories
    assert trajectory.exit_status == "TimeLimitExceeded"
    assert trajectory.steps
    assert trajectory.seconds > 60


async def test_the_time_that_nobody_was_at_it_is_not_counted():
    sandboxes, journal = FakeSandboxes(respond), MemoryJournal(crash_after=4)
    policy = FakePolicy(turn_by_turn([bash("ls")], [bash("pwd")], [bash("submit")]))
    limited = {"lookahead": ONE, "budget": BudgetLimits(seconds=60)}
    with pytest.raises(ExceptionGroup):
        await make_run(policy, sandboxes=sandboxes, journal=journal, **limited).run()
    for entry in journal._entries:
        entry["at"] -= 86_400
    [trajectory] = (
        await make_run(policy, sandboxes=sandboxes, journal=journal, **limited).run()
    ).trajectories
    assert trajectory.exit_status == "Submitted"
    assert trajectory.seconds < 60


class Dying(FakeSandboxes):
    """The first sandbox dies in the evaluation."""

    async def _die(self, sandbox, execute, command, **options):
        if command == "run hidden tests" and sandbox.id == "fake-0":
            sandbox.closed = True
        return await execute(command, **options)

    @asynccontextmanager
    async def start(self, task, *, labels=None):
        async with super().start(task, labels=labels) as sandbox:
            execute = sandbox.execute
            sandbox.execute = lambda command, **o: self._die(sandbox, execute, command, **o)
            yield sandbox


async def test_one_whose_sandbox_dies_in_the_evaluation_has_no_reward_and_is_replaced():
    journal = MemoryJournal()
    run = make_run(
        FakePolicy(THREE_TURNS), sandboxes=Dying(respond), journal=journal, lookahead=ONE
    )
    result = await run.run()
    ends = [(t.exit_status, t.reward) for t in result.trajectories]
    assert ends == [("SandboxLost", None), ("Submitted", 1.0)]
    written = [begun.trajectory.reward for begun in replay(await journal.entries()).values()]
    assert written == [None, 1.0]


async def test_a_winner_that_is_lost_in_its_evaluation_has_not_won():
    run = make_run(
        FakePolicy(THREE_TURNS), critic=FakeCritic(lambda s, a: 0.9), sandboxes=Dying(respond),
        lookahead=ONE, selection=Selection(n=1, accept_at=0.5),
    )  # fmt: skip
    result = await run.run()
    assert [t.exit_status for t in result.trajectories] == ["SandboxLost", "Submitted"]
    assert result.selected == 1


async def test_one_that_was_taken_up_ends_where_it_would_have_ended():
    """At its last format error, though its worker died before it said so."""
    journal = MemoryJournal(crash_after=4 + 2)
    settings = RolloutSettings(max_format_errors=2)
    given = {
        "journal": journal, "sandboxes": FakeSandboxes(respond), "lookahead": ONE,
        "rollout": settings,
    }  # fmt: skip
    with pytest.raises(ExceptionGroup):
        await make_run(FakePolicy(saying("?!")), **given).run()
    assert [e["kind"] for e in await journal.entries()][-1] == "observed"
    [trajectory] = (await make_run(FakePolicy(THREE_TURNS), **given).run()).trajectories
    assert (trajectory.exit_status, len(trajectory.steps)) == ("FormatError", 2)


async def test_waiting_for_a_sandbox_is_not_the_trajectorys_time():
    sandboxes, journal = FakeSandboxes(respond), MemoryJournal(crash_after=4)
    policy = FakePolicy(turn_by_turn([bash("ls")], [bash("pwd")], [bash("submit")]))
    limited = {"lookahead": ONE, "rollout": RolloutSettings(max_seconds=60)}
    with pytest.raises(ExceptionGroup):
        await make_run(policy, sandboxes=sandboxes, journal=journal, **limited).run()
    for entry in journal._entries[1:]:
        entry["elapsed"] += 500
    [trajectory] = (
        await make_run(policy, sandboxes=sandboxes, journal=journal, **limited).run()
    ).trajectories
    assert trajectory.exit_status == "Submitted"


class Slow(FakeSandboxes):
    """Attaching waits until it is told to go on."""

    def __init__(self):
        super().__init__(respond)
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def attach(self, sandbox_id):
        self.asked.set()
        await self.go.wait()
        return await super().attach(sandbox_id)


async def test_a_run_that_is_left_while_it_attaches_closes_nothing():
    sandboxes, journal = Slow(), MemoryJournal(crash_after=4)
    policy = FakePolicy(turn_by_turn([bash("ls")], [bash("pwd")], [bash("submit")]))
    given = {"sandboxes": sandboxes, "journal": journal, "lookahead": ONE}
    with pytest.raises(ExceptionGroup):
        await make_run(policy, **given).run()
    run = make_run(policy, **given)
    task = asyncio.create_task(run.run())
    await sandboxes.asked.wait()
    await run.leave()
    sandboxes.go.set()
    await asyncio.gather(task, return_exceptions=True)
    [sandbox] = sandboxes.all.values()
    assert not sandbox.closed
    [trajectory] = (await make_run(policy, **given).run()).trajectories
    assert trajectory.exit_status == "Submitted"


async def test_a_run_that_is_left_while_it_journals_its_sandbox_closes_nothing():
    class Hanging(MemoryJournal):
        reached = asyncio.Event()

        async def append(self, kind, **data):
            await super().append(kind, **data)
            if kind == "sandbox_started" and not self.reached.is_set():
                self.reached.set()
                await asyncio.Event().wait()  # the answer does not come

    sandboxes, journal = FakeSandboxes(respond), Hanging()
    given = {"sandboxes": sandboxes, "journal": journal, "lookahead": ONE}
    run = make_run(FakePolicy(THREE_TURNS), **given)
    task = asyncio.create_task(run.run())
    await journal.reached.wait()
    await run.leave()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    [sandbox] = sandboxes.all.values()
    assert not sandbox.closed
    [trajectory] = (await make_run(FakePolicy(THREE_TURNS), **given).run()).trajectories
    assert (trajectory.exit_status, sandbox.closed) == ("Submitted", True)


async def test_a_lean_run_journals_all_and_keeps_little():
    journal, turns = MemoryJournal(), turn_by_turn([bash("ls"), bash("pwd")], [bash("submit")] * 2)
    given = {"critic": FakeCritic(lambda s, a: 0.5), "journal": journal}
    run = make_run(FakePolicy(turns), **given, lookahead=Lookahead(k=2))
    run.lean = True
    [lean] = (await run.run()).trajectories
    [whole] = [begun.trajectory for begun in replay(await journal.entries()).values()]
    texts = [c.message and c.message.text for c in whole.steps[0].decision.candidates]
    assert texts == [bash("ls"), bash("pwd")]
    assert whole.steps[0].observation.output == "ran ls\n"
    assert [c.message is None for c in lean.steps[0].decision.candidates] == [False, True]
    assert lean.steps[0].observation.output == ""
    assert (lean.messages, lean.usage, lean.qs) == (whole.messages, whole.usage, whole.qs)


async def test_a_run_that_is_left_keeps_its_sandboxes_and_journals_nothing_more():
    sandboxes, journal = FakeSandboxes(respond), MemoryJournal()
    reached = asyncio.Event()

    class Stuck(FakePolicy):
        async def sample(self, state, n, sampling, *, session=None):
            if len(state) > 2:
                reached.set()
                await asyncio.Event().wait()
            async for sample in super().sample(state, n, sampling):
                yield sample

    run = make_run(Stuck(THREE_TURNS), sandboxes=sandboxes, journal=journal, lookahead=ONE)
    task = asyncio.create_task(run.run())
    await reached.wait()
    before = await journal.entries()
    await run.leave()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await journal.entries() == before
    [sandbox] = sandboxes.all.values()
    assert not sandbox.closed
    result = await make_run(
        FakePolicy(THREE_TURNS), sandboxes=sandboxes, journal=journal, lookahead=ONE
    ).run()
    assert [t.exit_status for t in result.trajectories] == ["Submitted"]
    assert sandbox.closed
    assert list(sandboxes.all.values()) == [sandbox]


def test_a_message_keeps_fields_that_nobody_named():
    message = Message.model_validate({"role": "assistant", "content": "x", "reasoning": "deep"})
    assert message.wire() == {"role": "assistant", "content": "x", "reasoning": "deep"}
