"""Critics with labels of somebody else's."""

import math

import pytest

from critic.errors import CriticInputError
from pilotfish import Message
from search.errors import CriticError
from service.app import check
from service.critics.published import PublishedCritic
from service.settings import ClassifyCriticSettings, Settings
from tests.judging import LABELS, expected_logits, judging
from tests.tiny import FORGETFUL_TEMPLATE, tokenizer

STATE = [Message.user("u")]
TURN = Message.assistant("a")


@pytest.fixture
async def endpoint():
    async with judging() as judge:
        yield judge


@pytest.fixture
async def critic(endpoint, tmp_path):
    """Makes one; closes it."""
    tokenizer().save_pretrained(tmp_path)
    opened = []

    def make(**settings):
        given = {"type": "classify", "url": endpoint.url, "model": "m", "tokenizer": str(tmp_path)}
        parsed = ClassifyCriticSettings.model_validate(given | settings)
        opened.append(PublishedCritic("c", parsed))
        return opened[-1]

    yield make
    for one in opened:
        await one.close()


async def test_q_is_the_probability_of_one_label(critic, endpoint):
    [first] = await critic().score(STATE, [TURN])
    [fourth] = await critic(label=3).score(STATE, [TURN])
    [share] = await critic(label=3, activation="softmax").score(STATE, [TURN])
    [row] = endpoint.bodies[0]["input"]
    logits = expected_logits(row, LABELS)
    assert endpoint.bodies[0]["use_activation"] is False
    assert first.q == pytest.approx(1 / (1 + math.exp(-logits[0])))
    assert fourth.q == pytest.approx(1 / (1 + math.exp(-logits[3])))
    assert share.q == pytest.approx(math.exp(logits[3]) / sum(map(math.exp, logits)))


async def test_a_label_that_is_not_there(critic, endpoint):
    endpoint.labels = 2
    with pytest.raises(CriticError, match="label 2 of 2"):
        await critic(label=2).score(STATE, [TURN])


async def test_a_tokenizer_that_is_none_is_told_before_anything_starts(tmp_path, redis_url):
    given = {"type": "classify", "url": "http://c", "model": "m", "tokenizer": str(tmp_path)}
    settings = Settings.model_validate({"critics": {"c": given}, "redis_url": redis_url})
    with pytest.raises(CriticInputError, match="has no tokenizer that can be read"):
        await check(settings)
    tokenizer(FORGETFUL_TEMPLATE).save_pretrained(tmp_path)
    with pytest.raises(CriticInputError, match="not append-only"):
        await check(settings)
