"""A judge that reasons and votes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse

from pilotfish import Message
from search.errors import CriticError
from service.critics.reasoning import ReasoningCritic, tally, verdict
from service.settings import ReasoningCriticSettings
from tests.judging import judging

STATE = [Message.user("u")]
TURN = Message.assistant("a")


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("so\nVERDICT: GOOD", True),
        ("VERDICT: GOOD? no.\nVERDICT: BAD\n", False),
        ("**VERDICT:** GOOD.", True),
        ("verdict: bad", False),
        ("**Verdict: `BAD`**", False),
        ("VERDICT:\nGOOD", True),
        ("VERDICT: GOODISH", None),
        ("I must end with VERDICT: GOOD or VERDICT: BAD. First", None),
        ("GOOD", None),
        ("", None),
        ("VERDICT: it is hard to say, but GOOD", None),
    ],
)
def test_the_last_verdict_counts(text, good):
    assert verdict(text) is good


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_q_is_the_share_of_good_and_the_spread_that_of_its_posterior(votes):
    score = tally(votes)
    assert score.q == votes.count(True) / len(votes)
    shares = np.linspace(0, 1, 20_001)
    weight = shares ** votes.count(True) * (1 - shares) ** votes.count(False)
    mean = np.average(shares, weights=weight)
    assert score.spread == pytest.approx(
        np.average((shares - mean) ** 2, weights=weight) ** 0.5, rel=1e-3
    )
    assert tally([True] * 9).spread < tally([True] * 3).spread


@pytest.fixture
async def endpoint():
    async with judging() as judge:
        yield judge


@pytest.fixture
async def critic(endpoint):
    """Makes one; closes it."""
    opened = []

    def make(**settings):
        given = {"type": "reasoning", "url": f"{endpoint.url}/v1", "model": "j", **settings}
        opened.append(ReasoningCritic("judge", ReasoningCriticSettings.model_validate(given)))
        return opened[-1]

    yield make
    for one in opened:
        await one.close()


async def test_all_votes_are_asked_for_in_one_request(critic, endpoint):
    endpoint.texts = ["VERDICT: GOOD", "VERDICT: BAD", "VERDICT: GOOD", "I cannot say"]
    assert await critic(votes=4).score(STATE, [TURN]) == [tally([True, False, True])]
    [body] = endpoint.bodies
    assert (body["n"], body["temperature"], body["max_tokens"]) == (4, 0.7, 1024)
    assert body["messages"][-1]["content"].endswith("VERDICT: BAD")


async def test_an_endpoint_without_n_is_asked_once_a_vote(critic, endpoint):
    endpoint.texts = ["VERDICT: GOOD", "VERDICT: BAD", "VERDICT: BAD"]
    [score] = await critic(votes=6, n=False, extra={"seed": 5}).score(STATE, [TURN])
    assert score.q == pytest.approx(1 / 3)
    assert sorted(body["seed"] for body in endpoint.bodies) == [5, 6, 7, 8, 9, 10]
    assert not any("n" in body for body in endpoint.bodies)


async def test_without_a_verdict_it_says_what_was_said_instead(critic, endpoint):
    endpoint.texts = ["I will go on with the task."]
    with pytest.raises(CriticError, match=r"no verdict in 3 answers.*go on with the task\."):
        await critic(votes=3).score(STATE, [TURN])


async def test_an_answer_that_was_cut_short_is_no_vote(critic, endpoint):
    cut = {"message": {"content": "it is VERDICT: BAD"}, "finish_reason": "length"}
    whole = {"message": {"content": "VERDICT: GOOD"}, "finish_reason": "stop"}
    endpoint.always = JSONResponse({"choices": [cut, whole]})
    assert await critic(votes=2).score(STATE, [TURN]) == [tally([True])]


async def test_what_is_thought_is_no_vote(critic, endpoint):
    message = {"content": None, "reasoning_content": "VERDICT: GOOD"}
    said = {"content": "VERDICT: BAD", "reasoning_content": "VERDICT: GOOD"}
    endpoint.always = JSONResponse({"choices": [{"message": message}, {"message": said}]})
    assert await critic(votes=2).score(STATE, [TURN]) == [tally([False])]


async def test_a_finished_trajectory_is_judged_at_its_end_unless_it_is_set(critic):
    assert not critic().every_turn
    assert critic(every_turn=True).every_turn


async def test_reading_ahead_takes_one_token_of_one_answer(critic, endpoint):
    await critic().warm(STATE)
    [body] = endpoint.bodies
    assert (body["max_tokens"], body.get("n", 1)) == (1, 1)
