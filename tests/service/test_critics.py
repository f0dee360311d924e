"""The critic behind vLLM's ``/classify``, over an endpoint that says what a test tells it to."""

import json

import httpx
import pytest

from critic.checkpoint import CriticCard, write_card
from pilotfish import Message
from search.errors import CriticError, CriticRefused
from service.critics.vllm import VllmCritic
from service.settings import VllmCriticSettings
from tests.tiny import tokenizer

STATE = [Message.user("u")]
TURN = Message.assistant("a")


@pytest.fixture
def critic(tmp_path):
    """A critic, and what it is answered."""
    tokenizer().save_pretrained(tmp_path)
    config = {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "q"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_card(tmp_path, CriticCard(max_tokens=50))
    made = VllmCritic("c", VllmCriticSettings(url="http://c", model="m", checkpoint=str(tmp_path)))

    def answering(answer, status=200):
        def handle(request):
            return httpx.Response(status, text=answer)

        made.client = httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://c")
        return made

    return answering


async def test_a_scalar_becomes_a_q(critic):
    assert await critic('{"data": [{"probs": [0.0]}]}').score(STATE, [TURN]) == [0.5]


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


async def test_what_it_cannot_read_is_told_apart_from_its_failing(critic):
    with pytest.raises(CriticRefused, match="the critic reads 50"):
        await critic("").score([Message.user("long " * 50)], [TURN])
    with pytest.raises(CriticRefused, match="answers 400: too long"):
        await critic("too long", 400).score(STATE, [TURN])
    with pytest.raises(CriticError, match="answers 500"):
        await critic("oops", 500).score(STATE, [TURN])
