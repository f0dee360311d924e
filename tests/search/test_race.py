"""Trajectories that race: who is pruned, who ends the rest, what a continued run makes of it."""

import asyncio

import pytest

from pilotfish.strategy import Lookahead, Selection
from search.errors import JournalError
from search.fakes import FakeCritic, FakePolicy, FakeSandboxes, MemoryJournal, turn_by_turn
from search.race import Race, standing
from tests.search.test_run import bash, make_run, respond
from tests.tiny import trajectory

LOOK = Lookahead(k=2)


def at(*qs, exit_status=None):
    made = trajectory("t", ["look"] * len(qs))
    for step, q in zip(made.steps, qs, strict=True):
        step.decision.winner.q = q
    made.exit_status = exit_status
    return made


def racing(*runners, **settings):
    race = Race(Selection(**settings))
    for runner in runners:
        race.joined(runner)
    return race


def test_where_one_stands_is_the_mean_of_its_last_turns():
    assert standing(at(0.9, 0.1, 0.2, 0.3)) == pytest.approx(0.2)
    assert standing(at(None, None, None)) is None
    assert standing(at(None, 0.4)) == 0.4
    assert standing(at()) is None


def test_one_that_falls_behind_is_named_with_its_figures():
    slow, fast = at(0.5, 0.2, 0.2, 0.2), at(0.5, 0.7, 0.7, 0.7)
    race = racing(slow, fast, prune_behind=0.4, prune_after=4)
    assert race.behind(slow) == "Q 0.200 is more than 0.4 behind another's 0.700"
    assert race.behind(fast) is None


@pytest.mark.parametrize(
    ("settings", "other"),
    [
        ({}, at(0.9, 0.9, 0.9)),
        ({"prune_behind": 0.4, "prune_after": 9}, at(0.9, 0.9, 0.9)),
        ({"prune_behind": 0.9}, at(0.9, 0.9, 0.9)),
        ({"prune_behind": 0.4}, at(None, None)),
        ({"prune_behind": 0.4}, at(0.9, 0.9, exit_status="StepLimitExceeded")),
        ({"prune_behind": 0.4}, at()),
    ],
    ids=["not asked", "too early", "not by so much", "unscored", "ended in vain", "not begun"],
)
def test_who_is_not_pruned(settings, other):
    slow = at(0.2, 0.2, 0.2)
    assert racing(slow, other, **{"prune_after": 3} | settings).behind(slow) is None


def test_one_that_submitted_holds_the_others_to_its_q():
    slow = at(0.2, 0.2, 0.2)
    race = racing(slow, at(0.9, exit_status="Submitted"), prune_behind=0.4, prune_after=3)
    assert race.behind(slow)


def test_only_a_submission_of_enough_q_is_accepted():
    for runner in (
        at(0.9),
        at(0.7, exit_status="Submitted"),
        at(0.9, exit_status="StepLimitExceeded"),
        at(None, exit_status="Submitted"),
    ):
        assert not racing(runner, accept_at=0.8).accepted.is_set()
    assert racing(at(0.8, exit_status="Submitted"), accept_at=0.8).accepted.is_set()


class Rivals(FakePolicy):
    """The first that asks submits in its second turn; the others never do, and wait there."""

    def __init__(self):
        super().__init__(turn_by_turn([bash("ls"), bash("pwd")], [bash("submit")] * 2))
        self.first, self.waiting = None, asyncio.Event()

    async def sample(self, state, n, sampling, *, session=None):
        self.first = self.first or session
        if session != self.first:
            self.waiting.set()
            await asyncio.Event().wait()
        elif len(state) > 2:
            await self.waiting.wait()
        async for sample in super().sample(state, n, sampling):
            yield sample


ACCEPTING = Selection(n=3, concurrency=2, accept_at=0.8)


async def test_one_that_is_accepted_ends_the_rest_wherever_they_are():
    sandboxes = FakeSandboxes(respond)
    run = make_run(
        Rivals(), critic=FakeCritic(lambda s, a: 0.9), sandboxes=sandboxes, lookahead=LOOK,
        selection=ACCEPTING,
    )  # fmt: skip
    result = await asyncio.wait_for(run.run(), 20)
    ends = [(t.exit_status, t.reward, t.exit_message) for t in result.trajectories]
    assert ends == [("Submitted", 1.0, ""), ("Pruned", None, "another attempt was accepted")]
    assert result.selected == 0
    assert all(sandbox.closed for sandbox in sandboxes.all.values())


@pytest.mark.parametrize("crash_after", range(4, 10))
async def test_a_continued_race_comes_to_the_same_end(crash_after):
    sandboxes, journal = FakeSandboxes(respond), MemoryJournal(crash_after=crash_after)
    given = {
        "critic": FakeCritic(lambda s, a: 0.9), "sandboxes": sandboxes, "journal": journal,
        "lookahead": LOOK, "selection": ACCEPTING,
    }  # fmt: skip
    policy = Rivals()
    with pytest.raises((ExceptionGroup, JournalError)):
        await asyncio.wait_for(make_run(policy, **given).run(), 20)
    policy.waiting.set()
    result = await asyncio.wait_for(make_run(policy, **given).run(), 20)
    assert [t.exit_status for t in result.trajectories] == ["Submitted", "Pruned"]
    assert result.selected == 0
    ran = [command for sandbox in sandboxes.all.values() for command in sandbox.ran]
    assert ran.count("run hidden tests") == 1


async def test_the_one_behind_is_pruned_and_the_run_goes_on():
    turns = [[bash("ls"), bash("ls -a")]] * 6
    submit = [bash("submit")] * 2

    class Uneven(FakePolicy):
        order = ()

        async def sample(self, state, n, sampling, *, session=None):
            if session not in self.order:
                self.order = (*self.order, session)
            slot = self.order.index(session)
            self._script = turn_by_turn(*turns, submit) if slot == 0 else turn_by_turn(*turns)
            async for sample in super().sample(state, n, sampling):
                yield sample

    policy = Uneven(turn_by_turn(*turns))
    critic = FakeCritic(lambda s, a: 0.5)

    async def score(state, actions, *, session=None):
        found = await FakeCritic.score(critic, state, actions)
        first = policy.order.index(session) == 0
        return [type(f)(0.9 if first else 0.1) for f in found]

    critic.score = score
    run = make_run(
        policy, critic=critic, lookahead=LOOK,
        selection=Selection(n=2, prune_behind=0.5, prune_after=2),
    )  # fmt: skip
    result = await asyncio.wait_for(run.run(), 20)
    assert [t.exit_status for t in result.trajectories] == ["Submitted", "Pruned"]
    assert "behind another's 0.900" in result.trajectories[1].exit_message
    assert len(result.trajectories[1].steps) == 2
