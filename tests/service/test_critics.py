"""The critic behind vLLM's ``/classify``, over an endpoint that says what a test tells it to."""

import asyncio
import json

import httpx
import pytest

from critic.checkpoint import CriticCard, write_card
from critic.errors import CriticInputError
from pilotfish import Message
from search.contracts import Score
from search.errors import CriticError, CriticRefused
from service.critics.together import Together
from service.critics.vllm import VllmCritic
from service.settings import VllmCriticSettings
from tests.tiny import tokenizer

STATE = [Message.user("u")]
TURN = Message.assistant("a")


def settings_of(folder, **others):
    return VllmCriticSettings(url="http://c", model="m", checkpoint=str(folder), **others)


@pytest.fixture
def folder(tmp_path):
    """Of a critic whose weights are where it is served."""
    tokenizer().save_pretrained(tmp_path)
    config = {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "q"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture
def critic(folder, monkeypatch):
    """A critic, and what it is answered."""
    write_card(folder, CriticCard(max_tokens=50))

    def answering(answer, status=200):
        def handle(request):
            return httpx.Response(status, text=answer)

        def client_of(settings, url):
            return httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url=url)

        monkeypatch.setattr("service.critics.endpoint.client_of", client_of)
        return VllmCritic("c", settings_of(folder))

    return answering


async def test_a_scalar_becomes_a_q(critic):
    assert await critic('{"data": [{"probs": [0.0]}]}').score(STATE, [TURN]) == [Score(0.5)]


@pytest.mark.parametrize(
    "answer",
    [
        '{"data": []}',
        '{"data": [{"probs": [0.0]}, {"probs": [0.0]}]}',
        '{"data": [{"probs": [0.1, 0.9]}]}',
        '{"data": [{"probs": [NaN]}]}',
        '{"data": 3}',
        "nonsense",
    ],
)
async def test_nonsense_is_the_critics_error(critic, answer):
    with pytest.raises(CriticError, match="not an answer of /classify"):
        await critic(answer).score(STATE, [TURN])


async def test_a_q_that_is_no_number_costs_only_whom_it_is_for(critic):
    made = critic('{"data": [{"probs": [0.0]}, {"probs": [NaN]}]}')
    calls = [made.score(STATE, [TURN]), made.score(STATE, [TURN])]
    first, second = await asyncio.gather(*calls, return_exceptions=True)
    assert first == [Score(0.5)]
    assert isinstance(second, CriticError)


async def test_what_it_cannot_read_is_told_apart_from_its_failing(critic):
    with pytest.raises(CriticRefused, match="the critic reads 50"):
        await critic("").score([Message.user("long " * 50)], [TURN])
    with pytest.raises(CriticRefused, match="too long"):
        await critic("too long", 400).score(STATE, [TURN])
    with pytest.raises(CriticError, match="answers 500"):
        await critic("oops", 500).score(STATE, [TURN])


@pytest.mark.parametrize(
    ("policies", "named", "line"),
    [(["weak"], None, "weak"), (["strong", "weak"], "strong", "strong"), ([], "new", "new")],
)
def test_a_critic_that_reads_the_policys_name_is_told_it(folder, policies, named, line):
    write_card(folder, CriticCard(policy_in_prompt=True, policies=policies))
    made = VllmCritic("c", settings_of(folder, policy=named))
    assert f"policy: {line}" in made.renderer.tokenizer.decode(made.renderer.render_state(STATE))


def test_a_critic_that_knows_several_policies_is_refused_where_nobody_says_which(folder):
    write_card(folder, CriticCard(policy_in_prompt=True, policies=["strong", "weak"]))
    with pytest.raises(CriticInputError, match="set the critic's policy"):
        VllmCritic("c", settings_of(folder))


class Server:
    """Answers each row's first number, once it is let."""

    def __init__(self):
        self.requests, self.left = [], 0
        self.open = asyncio.Event()

    async def send(self, rows):
        self.requests.append([row[0] for row in rows])
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        if [13] in rows:
            raise CriticRefused("it cannot read that")
        if [99] in rows:
            raise CriticError("it is down")
        return [float(row[0]) for row in rows]

    async def asked(self, count):
        async with asyncio.timeout(5):
            while len(self.requests) < count:
                await asyncio.sleep(0)


async def ask(together, *numbers):
    """A call under way."""
    task = asyncio.create_task(together([[number] for number in numbers]))
    await asyncio.sleep(0)
    return task


async def test_what_waits_goes_together_and_each_gets_its_own():
    server = Server()
    together = Together(server.send, at_once=1)
    first = await ask(together, 1)
    await server.asked(1)
    others = [await ask(together, 2), await ask(together, 3, 4), await ask(together, 5)]
    server.open.set()
    assert await asyncio.gather(first, *others) == [[1.0], [2.0], [3.0, 4.0], [5.0]]
    assert server.requests == [[1], [2, 3, 4, 5]]


async def test_nothing_waits_while_a_connection_is_free():
    server = Server()
    together = Together(server.send, at_once=2)
    calls = []
    for number in (1, 2):
        calls.append(await ask(together, number))
        await server.asked(number)
    server.open.set()
    await asyncio.gather(*calls)
    assert server.requests == [[1], [2]]


async def test_a_call_that_comes_as_the_last_one_is_answered_is_not_forgotten():
    server = Server()
    server.open.set()
    together = Together(server.send, at_once=1)
    async with asyncio.timeout(5):
        for number in range(5):
            assert await together([[number]]) == [float(number)]


async def test_a_request_has_a_bound():
    server = Server()
    together = Together(server.send, at_once=1)
    first = await ask(together, 0)
    await server.asked(1)
    others = [await ask(together, *[n] * 100) for n in range(5)]
    server.open.set()
    await asyncio.gather(first, *others)
    assert [len(request) for request in server.requests] == [1, 200, 200, 100]


async def test_who_is_refused_is_refused_alone():
    server = Server()
    together = Together(server.send, at_once=1)
    first = await ask(together, 1)
    await server.asked(1)
    others = [await ask(together, n) for n in (2, 13, 3)]
    server.open.set()
    answers = await asyncio.gather(first, *others, return_exceptions=True)
    assert answers[:2] + answers[3:] == [[1.0], [2.0], [3.0]]
    assert isinstance(answers[2], CriticRefused)


async def test_a_failure_is_everybodys_and_the_next_is_asked_again():
    server = Server()
    server.open.set()
    together = Together(server.send, at_once=1)
    calls = [asyncio.create_task(together([[n]])) for n in (1, 99)]
    failed = await asyncio.gather(*calls, return_exceptions=True)
    assert [str(error) for error in failed] == ["it is down", "it is down"]
    assert await together([[7]]) == [7.0]


async def test_a_request_is_cancelled_when_all_its_callers_have_left():
    server = Server()
    together = Together(server.send, at_once=1)
    calls = [asyncio.create_task(together([[n]])) for n in (1, 2)]
    await server.asked(1)
    waiting = await ask(together, 3)
    calls[0].cancel()
    waiting.cancel()
    await asyncio.sleep(0.01)
    assert server.left == 0
    calls[1].cancel()
    await asyncio.gather(*calls, waiting, return_exceptions=True)
    server.open.set()
    assert await together([[4]]) == [4.0]
    assert (server.left, server.requests) == (1, [[1, 2], [4]])


async def test_closing_ends_what_is_under_way():
    server = Server()
    together = Together(server.send, at_once=1)
    calls = [await ask(together, 1)]
    await server.asked(1)
    calls.append(await ask(together, 2))
    await together.close()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in ended] == [asyncio.CancelledError] * 2
    assert server.left == 1
