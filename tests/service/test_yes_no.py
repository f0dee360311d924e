"""P(yes) / (P(yes) + P(no))."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pilotfish import Message
from search.contracts import Score
from search.errors import CriticError
from service.critics.yes_no import YesNoCritic, yes_share
from service.settings import YesNoCriticSettings
from tests.judging import expected_q, judging

STATE = [Message.user("u")]
TURN = Message.assistant("a")
LOGPROBS = st.floats(-30, 0)
YES = st.sampled_from(["yes", "Yes", " YES", "YES\n", "\u0120Yes", "\u2581yes"])
NO = st.sampled_from(["no", "No", " NO", "\u2581No"])
OTHER = st.sampled_from(["maybe", "", "y", "yesterday", "not", "<think>"])
WORDS = {"yes": ["yes"], "no": ["no"]}
SIDES = st.lists(st.tuples(YES, LOGPROBS), min_size=1, max_size=4)
OTHERS = st.lists(st.tuples(OTHER, LOGPROBS), max_size=4)


@given(SIDES, st.lists(st.tuples(NO, LOGPROBS), min_size=1, max_size=4), OTHERS)
def test_it_is_the_share_of_yes_whatever_else_is_likely(yes, no, others):
    q, mass = yes_share([*others, *no, *yes], **WORDS)
    p_yes, p_no = (sum(math.exp(logprob) for _, logprob in side) for side in (yes, no))
    assert q == pytest.approx(p_yes / (p_yes + p_no))
    assert mass == pytest.approx(p_yes + p_no)
    swapped, _ = yes_share([*others, *no, *yes], yes=["no"], no=["yes"])
    assert q + swapped == pytest.approx(1)
    shifted, _ = yes_share([(token, logprob - 3) for token, logprob in [*no, *yes]], **WORDS)
    assert shifted == pytest.approx(q)


@given(SIDES, OTHERS)
def test_a_side_that_is_not_among_the_likeliest_has_nothing(yes, others):
    assert yes_share([*others, *yes], **WORDS)[0] == 1
    assert yes_share(others, **WORDS) is None


@pytest.fixture
async def endpoint():
    async with judging() as judge:
        yield judge


@pytest.fixture
async def critic(endpoint):
    """Makes one; closes it."""
    opened = []

    def make(**settings):
        given = {"type": "yes_no", "url": f"{endpoint.url}/v1", "model": "j", **settings}
        opened.append(YesNoCritic("judge", YesNoCriticSettings.model_validate(given)))
        return opened[-1]

    yield make
    for one in opened:
        await one.close()


async def test_what_is_asked(critic, endpoint):
    made = critic(question="Well?")
    [score] = await made.score(STATE, [TURN])
    [body] = endpoint.bodies
    prompt = body.pop("messages")
    assert body == {
        "model": "j", "max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20,
    }  # fmt: skip
    assert prompt[-1]["content"].endswith("Well?")
    assert score == Score(pytest.approx(expected_q(prompt[-1]["content"])))


async def test_extra_wins_and_null_leaves_out(critic, endpoint):
    extra = {"temperature": None, "max_tokens": None, "max_completion_tokens": 4, "top_k": 1}
    made = critic(extra=extra)
    await made.score(STATE, [TURN])
    await made.warm(STATE)
    asked, warmed = endpoint.bodies
    assert not {"temperature", "max_tokens"} & (asked.keys() | warmed.keys())
    assert (asked["max_completion_tokens"], asked["top_k"]) == (4, 1)
    assert warmed["max_completion_tokens"] == 1
    with pytest.raises(ValidationError, match="messages, n: the judge decides"):
        critic(extra={"n": 2, "messages": []})


async def test_reading_ahead_can_be_left_out(critic, endpoint):
    await critic(warm=False).warm(STATE)
    assert endpoint.bodies == []


async def test_a_model_that_says_something_else_is_told_by_its_words(critic, endpoint):
    endpoint.first = [("<think>", -0.001), ("Well", -8.0)]
    with pytest.raises(CriticError, match=r"neither YES nor NO .*'<think>' 1, 'Well'"):
        await critic().score(STATE, [TURN])
    endpoint.first.append(("Yes", -9.0))
    with pytest.raises(CriticError, match=r"together 0\.00012; min_mass is 0\.01"):
        await critic().score(STATE, [TURN])
    assert await critic(min_mass=0).score(STATE, [TURN]) == [Score(1.0)]


async def test_the_token_that_was_said_counts_where_it_is_not_listed(critic, endpoint):
    endpoint.first, endpoint.listed = [("NO", math.log(0.5))], 0
    assert await critic().score(STATE, [TURN]) == [Score(0.0)]
    endpoint.listed = 1  # and not twice where it is
    assert await critic().score(STATE, [TURN]) == [Score(0.0)]


async def test_pieces_of_words_are_settings(critic, endpoint):
    endpoint.first = [("Y", math.log(0.3)), ("N", math.log(0.1)), ("yes", math.log(0.3))]
    [score] = await critic(yes=["yes", "y"], no=["n"]).score(STATE, [TURN])
    assert score.q == pytest.approx(6 / 7)


async def test_requests_under_way_have_a_bound(critic, endpoint):
    actions = [Message.assistant(str(i)) for i in range(30)]
    assert len(await critic(max_connections=3).score(STATE, actions)) == 30
    assert endpoint.most == 3


async def test_an_endpoint_that_does_not_answer_in_time(critic, endpoint):
    endpoint.open.clear()
    with pytest.raises(CriticError, match=r"no answer from http.* in 0\.1 s"):
        await critic(timeout=0.1).score(STATE, [TURN])
