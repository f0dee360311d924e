"""What every critic does that asks an endpoint: the same tests over each kind, made by
configuration alone, against a real one."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager

import pytest
from starlette.responses import JSONResponse, PlainTextResponse

from critic.checkpoint import CriticCard, write_card
from pilotfish import AsyncPilotfish, Message
from search.contracts import Score
from search.errors import CriticError, CriticRefused, CriticTooLong
from service.app import create_app
from service.parts import Parts
from service.settings import Settings
from tests.judging import judging
from tests.tiny import tokenizer, trajectory
from tests.upstream import serving

KINDS = ["yes_no", "reasoning", "classify", "vllm", "ensemble"]
CALL = {"id": "c1", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
STATE = [Message.system("act"), Message.user("solve it"), Message.assistant("look"),
         Message.user("a file")]  # fmt: skip
ACTIONS = [Message.assistant(text) for text in ("one", "another", "a third one")]
HISTORY = [*STATE, ACTIONS[0], Message.user("done"), ACTIONS[1], Message.user("really")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A critic of 26 bins, as far as a critic that is served elsewhere needs one."""
    folder = tmp_path_factory.mktemp("critic")
    tokenizer().save_pretrained(folder)
    config = {"architectures": ["LlamaForSequenceClassification"],
              "id2label": {str(i): str(i) for i in range(26)}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    write_card(folder, CriticCard(max_tokens=3000, activation="expectation", labels=26))
    return folder


def configured(kind, url, checkpoint):
    """A critic of that kind, and its members, as a file of settings has them."""
    judge = {"url": f"{url}/v1", "model": "j", "max_chars": 3000, "every_turn": True}
    served = {"url": url, "model": "c"}
    classify = {"type": "classify", "tokenizer": str(checkpoint), "max_tokens": 3000}
    critics = {
        "yes_no": judge | {"type": "yes_no"},
        "reasoning": judge | {"type": "reasoning"},
        "classify": served | classify,
        "vllm": served | {"type": "vllm", "checkpoint": str(checkpoint)},
        "ensemble": {"type": "ensemble", "members": ["yes_no", "classify"]},
    }
    return {name: critics[name] for name in (kind, *critics[kind].get("members", []))}


@asynccontextmanager
async def made(kind, url, checkpoint):
    settings = Settings.model_validate(
        {"critics": configured(kind, url, checkpoint), "sandboxes": {"s": {"type": "fake"}}}
    )
    async with Parts(settings) as parts:
        yield parts.critic(kind)


@pytest.fixture
async def endpoint():
    async with judging() as judge:
        yield judge


@pytest.fixture(params=KINDS)
async def critic(request, endpoint, checkpoint):
    async with made(request.param, endpoint.url, checkpoint) as critic:
        yield critic


async def test_every_action_has_its_score_in_order(critic):
    scores = await critic.score(STATE, ACTIONS)
    assert scores == [(await critic.score(STATE, [action]))[0] for action in ACTIONS]
    assert len({score.q for score in scores}) > 1
    for score in scores:
        assert isinstance(score, Score)
        assert 0 <= score.q <= 1
        assert score.spread is None or score.spread >= 0


async def test_turns_are_scored_as_actions_in_their_states(critic):
    turns = [i for i, message in enumerate(HISTORY) if message.role == "assistant"]
    one_by_one = [(await critic.score(HISTORY[:i], [HISTORY[i]]))[0] for i in turns]
    assert await critic.score_turns(HISTORY) == one_by_one


async def test_without_actions_nothing_is_asked(critic, endpoint):
    assert await critic.score(STATE, []) == []
    assert await critic.score_turns(STATE[:2]) == []
    assert endpoint.bodies == []


async def test_a_state_is_read_ahead(critic, endpoint):
    await critic.warm(STATE, session="s")
    assert endpoint.bodies
    assert all(body.get("max_tokens", 1) == 1 for body in endpoint.bodies)


async def test_tool_calls_are_read(critic):
    turn = Message(role="assistant", content=None, tool_calls=[CALL])
    reply = Message(role="tool", content="a.py", tool_call_id="c1")
    assert len(await critic.score_turns([*STATE, turn, reply, ACTIONS[0]])) == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_an_endpoint_that_is_not_there(kind, endpoint, checkpoint):
    async with made(kind, "http://127.0.0.1:9", checkpoint) as critic:
        with pytest.raises(CriticError, match=r"127\.0\.0\.1:9") as failed:
            await critic.score(STATE, ACTIONS)
        assert not isinstance(failed.value, CriticRefused)


async def test_an_endpoint_that_fails(critic, endpoint):
    endpoint.always = PlainTextResponse("oops", 500)
    for asking in (critic.score(STATE, ACTIONS), critic.score_turns(HISTORY)):
        with pytest.raises(CriticError, match="answers 500: oops") as failed:
            await asking
        assert not isinstance(failed.value, CriticRefused)


async def test_an_endpoint_that_is_busy_is_asked_again(critic, endpoint):
    endpoint.instead = {0: PlainTextResponse("later", 503)}
    assert len(await critic.score(STATE, [ACTIONS[0]])) == 1
    endpoint.always = PlainTextResponse("later", 429)
    with pytest.raises(CriticError, match="429"):
        await critic.score(STATE, [ACTIONS[0]])


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("This model's maximum context length is 2048 tokens.", CriticTooLong),
        ("I do not like it", CriticRefused),
    ],
)
async def test_an_endpoint_that_refuses(critic, endpoint, message, kind):
    endpoint.always = JSONResponse({"error": {"message": message}}, 400)
    with pytest.raises(CriticRefused, match=message[:20]) as refused:
        await critic.score(STATE, ACTIONS)
    assert type(refused.value) is kind


NONSENSE = [
    "nonsense",
    "[]",
    "3",
    "null",
    "{}",
    "[" * 100_000,
    '{"choices": [], "data": []}',
    '{"choices": [{"message": {"content": 3}, "logprobs": {"content": [{"token": "YES", '
    '"logprob": NaN, "top_logprobs": []}]}}], "data": [{"probs": [NaN]}]}',
    '{"choices": [{"message": null, "logprobs": null}], "data": [{"probs": null}]}',
]


async def test_an_endpoint_that_answers_nonsense(critic, endpoint):
    for answer in NONSENSE:
        endpoint.always = PlainTextResponse(answer)
        with pytest.raises(CriticError, match="not an answer of /"):
            await critic.score(STATE, [ACTIONS[0]])


async def test_who_leaves_is_gone_at_once_and_so_are_the_requests(critic, endpoint):
    endpoint.open.clear()
    asking = asyncio.create_task(critic.score(STATE, ACTIONS))
    async with asyncio.timeout(5):
        while not endpoint.under_way:
            await asyncio.sleep(0.005)
    began = time.monotonic()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert time.monotonic() - began < 1
    async with asyncio.timeout(5):
        while endpoint.under_way:
            await asyncio.sleep(0.005)
    assert endpoint.left == len(endpoint.bodies)


async def test_what_cannot_be_read_is_refused(critic):
    for history, kind in (
        ([Message.user("long " * 1000)], CriticTooLong),
        ([Message.user("\ud800")], CriticRefused),
    ):
        with pytest.raises(kind):
            await critic.score(history, [ACTIONS[0]])


async def test_a_long_history_is_seen_through_a_window(critic, endpoint):
    history = [Message.user("the task")]
    for number in range(40):
        history += [Message.assistant(f"turn {number} " * 9), Message.user(f"seen {number} " * 9)]
    assert len(await critic.score_turns(history)) == 40
    assert endpoint.bodies


@pytest.mark.parametrize("kind", KINDS)
async def test_it_steers_and_selects_by_configuration_alone(kind, endpoint, checkpoint, redis_url):
    settings = Settings.model_validate(
        {
            "critics": configured(kind, endpoint.url, checkpoint),
            "policies": {"p": {"type": "fake", "says": ["one", "another", "a third one"]}},
            "sandboxes": {"s": {"type": "fake"}},
            "redis_url": redis_url,
        }
    )
    async with serving(create_app(settings)) as url, AsyncPilotfish(url, max_retries=0) as client:
        decision = (await client.lookahead(STATE, critic=kind)).decision
        assert decision.reason == "argmax"
        qs = [candidate.q for candidate in decision.candidates if candidate.q is not None]
        assert decision.winner.q == max(qs)
        assert len(set(qs)) > 1
        finished = [trajectory("t", ["look", said, "submit"]) for said in ("a", "bb", "ccc")]
        choice = await client.select(finished, critic=kind)
        assert choice.reason == "argmax"
        assert choice.q[choice.chosen] == max(choice.q)
        has_spread = kind in ("ensemble", "reasoning")
        assert (decision.winner.spread is not None) is has_spread
        assert (choice.spread[choice.chosen] is not None) is has_spread
