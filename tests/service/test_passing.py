"""What the policy is sent is what its caller sent, whatever that is, with many calls at once."""

import asyncio
import json

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.app import create_app
from service.settings import EndpointPolicy, Settings
from service.transport import Transport
from tests.upstream import serving, upstream

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = (
    st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, -0.0, 1e-320, 2**53 + 1, 1.0, 1e22])
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OURS = ("model", "messages", "n", "best_of", "stream", "stream_options", "pilotfish", "logprobs")
FIELDS = st.dictionaries(
    TEXT.filter(lambda name: name not in (*OURS, "seed"))
    | st.sampled_from(["temperature", "tools", "user", "extra", "sampling", "state", "k", "self"]),
    VALUES,
    max_size=5,
)
PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), max_size=2)
BESIDE = st.dictionaries(
    TEXT.filter(lambda name: name not in ("role", "content", "tool_calls", "tool_call_id", "name")),
    VALUES,
    max_size=2,
)
MESSAGES = st.lists(
    st.builds(
        lambda beside, content, role: beside | {"role": role, "content": content},
        BESIDE,
        TEXT | PARTS,
        st.sampled_from(["system", "user", "assistant"]),
    ),
    max_size=3,
)
BODIES = st.fixed_dictionaries(
    {"fields": FIELDS, "messages": MESSAGES, "guided": st.booleans(), "k": st.integers(1, 3)},
    optional={
        "stream": st.booleans(),
        "logprobs": st.booleans() | st.none(),
        "seed": st.integers(0, 2**63) | st.none(),
        "best_of": st.integers(1, 4),
        "stream_options": st.just({"include_usage": True}),
    },
)
OPTIONAL = ("stream", "logprobs", "seed", "best_of", "stream_options")


def body_of(number, drawn):
    """``number`` marks the call in its last message."""
    marked = {"role": "user", "content": f"call {number}"}
    body = drawn["fields"] | {name: drawn[name] for name in OPTIONAL if name in drawn}
    body |= {"messages": [*drawn["messages"], marked]}
    if drawn["guided"]:
        return body | {"model": "p", "pilotfish": {"k": drawn["k"]}}
    return body | {"model": "p:plain"}


def expected(body):
    """What docs/endpoint.md says that the policy is sent, where it takes ``n``."""
    sent = {name: value for name, value in body.items() if name != "pilotfish"}
    sent["model"] = "up"
    k = body.get("pilotfish", {"k": 1})["k"]
    if "pilotfish" not in body or (k == 1 and body.get("stream")):
        return sent
    for name in ("n", "best_of", "stream", "stream_options"):
        sent.pop(name, None)
    if k > 1:
        sent.setdefault("logprobs", True)
        sent |= {"n": k, "stream": True, "stream_options": {"include_usage": True}}
    return sent


def same(value):
    """Alike only for what is the same JSON: 1, 1.0 and true are not."""
    return json.dumps(value, sort_keys=True)


async def passed_on(redis_url, drawn):
    """Pairs of what each caller sent and all that the policy was sent for it."""
    async with upstream() as up:
        given = Settings(
            policies={"p": EndpointPolicy(url=up.url, model="up", timeout=60)},
            redis_url=redis_url,
            worker=False,
        )
        client = {"transport": Transport(httpx.Limits()), "timeout": 60}
        async with serving(create_app(given)) as url, httpx.AsyncClient(**client) as http:
            bodies = [body_of(number, one) for number, one in enumerate(drawn)]
            answers = await asyncio.gather(
                *(http.post(f"{url}/v1/chat/completions", json=body) for body in bodies)
            )
        assert {answer.status_code for answer in answers} == {200}
        sent = {}
        for body in up.bodies:
            sent.setdefault(body["messages"][-1]["content"], []).append(body)
    return [(body, sent[body["messages"][-1]["content"]]) for body in bodies]


@settings(max_examples=20)
@given(drawn=st.lists(BODIES, min_size=1, max_size=20))
def test_the_policy_is_sent_what_the_caller_sent_but_for_documented_fields(redis_url, drawn):
    for body, sent in asyncio.run(passed_on(redis_url, drawn)):
        assert [same(one) for one in sent] == [same(expected(body))]


@pytest.mark.parametrize("number", [2**80, 1e-320, -0.0, 1.0, 2**53 + 1, None, True])
@pytest.mark.parametrize("guided", [True, False])
def test_a_number_is_not_made_another(redis_url, number, guided):
    drawn = {"fields": {"x": [number]}, "messages": [], "guided": guided, "k": 2}
    [(_, [sent])] = asyncio.run(passed_on(redis_url, [drawn]))
    assert same(sent["x"]) == same([number])
