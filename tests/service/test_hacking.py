"""The live watch: failures that look better under lookahead than they are."""

from __future__ import annotations

import httpx
import pytest
from structlog.testing import capture_logs

from pilotfish import AsyncPilotfish, Candidate, Lookahead, Message, Selection, Strategy, Trajectory
from search.fakes import FakeCritic, FakePolicy, FakeSandboxes
from service.app import create_app
from service.hacking import LATEST, HackingWatch
from service.settings import FakePolicySettings, FakeSandboxSettings, Settings
from tests.clients.conftest import TASK, TURNS
from tests.tiny import trajectory
from tests.upstream import serving


def ended(q: float | None, *, k: int = 4, reward: float | None = 0.0) -> Trajectory:
    found = trajectory("t", ["submit"], reward=reward)
    found.critic = "watched"
    decision = found.steps[0].decision
    decision.requested = k
    decision.candidates[0].q = q
    if k > 1:
        decision.candidates.append(Candidate(index=1, message=Message.assistant("b"), q=0.0))
    return found


def watch(expected: float | None = None) -> HackingWatch:
    return HackingWatch(0.1, 3, lambda critic: expected)


def feed(watching: HackingWatch, *qs: float, k: int) -> None:
    for q in qs:
        watching.ended(ended(q, k=k))


def test_it_warns_once_when_failures_rise_and_is_quiet_again_when_they_fall():
    watching = watch()
    feed(watching, 0.1, 0.1, 0.1, k=1)
    with capture_logs() as logs:
        feed(watching, 0.3, 0.3, k=4)
        assert not watching.alarm("watched")  # too few
        feed(watching, 0.3, 0.3, k=4)
        assert watching.alarm("watched")
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert "train the critic again" in logs[0]["event"]
    feed(watching, *[0.1] * LATEST, k=4)
    assert not watching.alarm("watched")


def test_before_there_are_failures_without_lookahead_the_critics_card_says_what_is_usual():
    for expected, alarm in ((0.1, True), (0.25, False), (None, False)):
        watching = watch(expected)
        feed(watching, 0.3, 0.3, 0.3, k=4)
        assert watching.alarm("watched") is alarm


@pytest.mark.parametrize("other", [ended(0.9, reward=1.0), ended(0.9, reward=None), ended(None)])
def test_successes_and_what_nobody_evaluated_or_scored_say_nothing(other):
    watching = watch(0.0)
    for _ in range(5):
        watching.ended(other)
    assert not watching.alarm("watched")


async def test_runs_are_watched_and_the_alarm_is_a_metric(redis_url):
    def failing(command: str) -> str:
        if command == "test":
            raise ValueError("hidden tests fail")
        return "ok"

    settings = Settings(
        policies={"p": FakePolicySettings(type="fake", says=["x"])},
        sandboxes={"fake": FakeSandboxSettings(type="fake")},
        redis_url=redis_url,
        hacking_failures=2,
    )
    app = create_app(settings)
    async with serving(app) as url, AsyncPilotfish(url) as client:
        parts = app.state.context.parts
        parts.policies["p"] = FakePolicy(TURNS, name="p")
        parts.critics["vain"] = FakeCritic(
            lambda state, action: 0.9 if "pwd" in str([*state, action]) else 0.4, name="vain"
        )
        parts.sandboxes["fake"] = FakeSandboxes(failing)
        for k in (1, 2):
            await client.run(
                TASK, Strategy(lookahead=Lookahead(k=k), selection=Selection(n=2)), critic="vain"
            )
        async with httpx.AsyncClient() as http:
            told = (await http.get(f"{url}/metrics")).text
    assert 'pilotfish_failed_q{critic="vain",lookahead="true"}' in told
    assert 'pilotfish_value_hacking{critic="vain"} 1.0' in told
