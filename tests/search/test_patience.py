"""A run outlasts a policy or a critic that is away, and what is bad for good ends it at once."""

import asyncio
import time

import pytest

from pilotfish import Message
from pilotfish.strategy import Lookahead, RolloutSettings, Sampling
from search import patience
from search.contracts import Sample
from search.errors import ContextTooLong, CriticError, CriticRefused, PolicyError, PolicyRefused
from search.fakes import FakeCritic, FakePolicy, turn_by_turn
from search.patience import PatientCritic, PatientPolicy
from tests.search.test_run import bash, make_run

STATE = [Message.user("hi")]


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.001)


class Scripted:
    """Answers each request by the next of ``answers``: samples, then maybe an error."""

    name = "scripted"

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    async def sample(self, state, n, sampling, *, session=None):
        self.asked.append((n, sampling.seed))
        for part in self.answers.pop(0):
            if isinstance(part, Exception):
                raise part
            yield part


def good(index):
    return Sample(index=index, message=Message.assistant(f"turn {index}"), tokens=1)


def bad(index):
    return Sample(index=index, error="cut off")


async def taken(policy, n=3, seconds=60):
    patient = PatientPolicy(policy, seconds)
    return [s async for s in patient.sample(STATE, n, Sampling(seed=7))]


async def test_a_policy_that_is_away_is_asked_again_for_all():
    policy = Scripted([PolicyError("away")], [PolicyError("away")], [good(1), good(0), good(2)])
    assert [s.index for s in await taken(policy)] == [1, 0, 2]
    assert policy.asked == [(3, 7)] * 3


async def test_of_a_policy_that_dies_midway_only_what_was_missing_is_taken():
    policy = Scripted([good(2), PolicyError("gone")], [good(0), good(1), good(2)])
    assert [s.index for s in await taken(policy)] == [2, 0, 1]


async def test_failed_samples_are_tried_again_a_few_times_and_then_told():
    policy = Scripted([bad(0), good(1)], [good(0), good(1)])
    assert [(s.index, s.error) for s in await taken(policy, n=2)] == [(1, None), (0, None)]
    policy = Scripted(*[[good(1), bad(0)]] * (1 + patience.MORE_TRIES))
    assert [(s.index, s.error) for s in await taken(policy, n=2)] == [(1, None), (0, "cut off")]
    assert policy.answers == []


@pytest.mark.parametrize(
    "error", [ContextTooLong("too long"), PolicyRefused("no such model", 404, {})]
)
async def test_what_cannot_be_asked_is_not_asked_again(error):
    policy = Scripted([error])
    with pytest.raises(type(error)):
        await taken(policy)


async def test_patience_ends_and_then_is_not_had_again_until_it_answers():
    policy = Scripted(*[[PolicyError("away")]] * 1000)
    patient = PatientPolicy(policy, 0.2)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(PolicyError, match="away"):
            [s async for s in patient.sample(STATE, 1, Sampling())]
        took = time.monotonic() - began
    assert took < 0.1
    before = len(policy.answers)
    policy.answers = [[good(0)], [PolicyError("away")], [good(0)]]
    for _ in range(2):
        assert len([s async for s in patient.sample(STATE, 1, Sampling())]) == 1
    assert before < 999


async def test_one_call_that_never_succeeds_ends_though_others_are_answered():
    class Picky(Scripted):
        async def sample(self, state, n, sampling, *, session=None):
            if session == "poisoned":
                raise PolicyError("malformed")
            yield good(0)

    patient = PatientPolicy(Picky(), 0.3)
    ended = asyncio.Event()

    async def others():
        while not ended.is_set():
            assert [s async for s in patient.sample(STATE, 1, Sampling(), session="fine")]
            await asyncio.sleep(0.01)

    asking = asyncio.create_task(others())
    with pytest.raises(PolicyError, match="malformed"):
        [s async for s in patient.sample(STATE, 1, Sampling(), session="poisoned")]
    ended.set()
    await asking


async def test_a_critic_that_is_away_is_asked_again_and_one_that_refuses_is_not():
    failures = [CriticError("away"), CriticError("away")]

    class Away(FakeCritic):
        async def score(self, state, actions, *, session=None):
            if failures:
                raise failures.pop()
            return await super().score(state, actions, session=session)

    critic = PatientCritic(Away(lambda s, a: 0.5), 60)
    assert [s.q for s in await critic.score(STATE, [Message.assistant("x")])] == [0.5]
    failures.append(CriticRefused("cannot read this"))
    with pytest.raises(CriticRefused):
        await critic.score(STATE, [Message.assistant("x")])


async def test_a_runs_decisions_are_whole_though_policy_and_critic_were_away():
    class Restarting(FakePolicy):
        calls = 0

        async def sample(self, state, n, sampling, *, session=None):
            self.calls += 1
            if self.calls % 2:
                raise PolicyError("restarting")
            async for sample in super().sample(state, n, sampling, session=session):
                yield sample

    class Flapping(FakeCritic):
        calls = 0

        async def score(self, state, actions, *, session=None):
            self.calls += 1
            if self.calls % 2:
                raise CriticError("restarting")
            return await super().score(state, actions, session=session)

    turns = turn_by_turn([bash("ls"), bash("pwd")], [bash("submit")] * 2)
    critic = Flapping(lambda s, a: 0.9 if "pwd" in a.text else 0.4)
    run = make_run(
        Restarting(turns), critic=critic, lookahead=Lookahead(k=2),
        rollout=RolloutSettings(patience=60),
    )  # fmt: skip
    [trajectory] = (await run.run()).trajectories
    assert trajectory.exit_status == "Submitted"
    assert [step.decision.degraded for step in trajectory.steps] == [False, False]
    assert "pwd" in trajectory.steps[0].decision.message.text
