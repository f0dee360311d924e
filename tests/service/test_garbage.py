"""A call leaves nothing that only the collector could free: it seldom looks through old objects,
and the memory of a busy service would grow till then."""

import gc
from collections import Counter

import httpx
import pytest

from service.app import create_app
from service.settings import EndpointPolicy, Settings, YesNoCriticSettings
from tests.judging import judging
from tests.upstream import serving, upstream

CALLS = 20


@pytest.fixture
async def ask(redis_url):
    async with upstream() as up, judging() as judge:
        up.messages = [{"content": text} for text in "abcd"]
        settings = Settings(
            policies={"p": EndpointPolicy(url=up.url, model="up")},
            critics={"j": YesNoCriticSettings(type="yes_no", url=f"{judge.url}/v1", model="j")},
            redis_url=redis_url,
            worker=False,
        )
        async with serving(create_app(settings)) as url, httpx.AsyncClient(base_url=url) as http:

            async def asked(**fields):
                messages = [{"role": "user", "content": "hi"}]
                body = {"model": "p", "messages": messages} | fields
                answer = await http.post("/v1/chat/completions", json=body, timeout=20)
                assert answer.status_code == 200, answer.text

            yield asked


@pytest.mark.parametrize(
    "fields", [{}, {"model": "p:plain"}, {"stream": True}, {"model": "p:plain", "stream": True}]
)
async def test_a_call_leaves_nothing_in_cycles(ask, fields):
    for _ in range(CALLS):
        await ask(**fields)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(CALLS):
            await ask(**fields)
        gc.collect()
        left = Counter(type(found).__module__.split(".")[0] for found in gc.garbage)
        responses = sum(isinstance(found, httpx.Response) for found in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert responses == CALLS  # the test's own, and none of the service's
    assert not {"aiohttp", "stamina", "tenacity", "service", "search", "pilotfish"} & set(left)
