"""The Messages API: what Anthropic's own SDK and a bare caller see, over a real HTTP upstream."""

import asyncio
import json

import anthropic
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from starlette.responses import JSONResponse, Response

from search.errors import PolicyError
from search.fakes import FakePolicy
from service.errors import ApiError
from service.wire.message_events import MessageEvents
from service.wire.messages import chat_of, messages_of
from tests.service.streamed import ANSWER, ANYTHING, PLACE, chunks_of, replaced

EVENT = TypeAdapter(RawMessageStreamEvent)
HI = [{"role": "user", "content": "hi"}]
ASK = {"model": "p", "max_tokens": 50, "messages": HI}
CALL = {
    "id": "toolu_1",
    "type": "function",
    "function": {"name": "bash", "arguments": '{"command": "ls -l"}'},
}
TOOL = {
    "name": "bash",
    "description": "Run it.",
    "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}},
}
TURN = {"reasoning_content": "think", "content": "Look first.", "tool_calls": [CALL]}
BLOCKS = [
    {"type": "thinking", "thinking": "think", "signature": ""},
    {"type": "text", "text": "Look first."},
    {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "ls -l"}},
]


@pytest.fixture
async def client(endpoint):
    async with anthropic.AsyncAnthropic(base_url=endpoint.url, api_key="k1", max_retries=0) as sdk:
        yield sdk


async def ask(endpoint, body=None, headers=None, **fields):
    return await endpoint.http.post("/v1/messages", json=(body or ASK) | fields, headers=headers)


def events_of(text):
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


async def test_the_sdk_gets_the_candidate_of_highest_q(endpoint, client):
    endpoint.up.messages = [{"content": "a"}, {"content": "aaaa"}, {"content": "aa"}]
    extra = {"pilotfish": {"k": 3, "candidates": True}}
    raw = await client.messages.with_raw_response.create(**ASK, extra_body=extra)
    message = await raw.parse()
    assert [block.text for block in message.content] == ["aaaa"]
    assert (message.model, message.role, message.stop_reason) == ("p", "assistant", "end_turn")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (11, 9)
    assert message.pilotfish["q"] == 0.4
    assert [c["q"] for c in message.pilotfish["candidates"]] == [0.1, 0.4, 0.2]
    assert raw.headers["x-pilotfish-score"] == "0.400000"


async def test_the_sdk_lists_the_policies(endpoint, client, monkeypatch):
    listed = [model async for model in client.models.list()]
    assert [model.id for model in listed] == ["p", "p:plain", "p:lookahead"]
    assert {model.type for model in listed} == {"model"}
    assert (await client.models.retrieve("p:plain")).display_name == "p:plain"
    with pytest.raises(anthropic.NotFoundError, match="GET /v1/models"):
        await client.models.retrieve("q")
    monkeypatch.setattr(endpoint.context.parts, "policies", {})
    assert [model async for model in client.models.list()] == []


async def test_the_sdk_that_blocks_works_too(endpoint):
    def called():
        with anthropic.Anthropic(base_url=endpoint.url, api_key="k1", max_retries=0) as sdk:
            whole = sdk.messages.create(**ASK)
            with sdk.messages.stream(**ASK) as stream:
                text = "".join(stream.text_stream)
        return whole, text

    whole, text = await asyncio.to_thread(called)
    assert whole.content[0].text == text == "hello"


@pytest.mark.parametrize("model", ["p", "p:plain"])
async def test_a_stream_put_together_is_the_answer(endpoint, client, model):
    endpoint.up.messages = [TURN]
    asked = ASK | {"model": model, "tools": [TOOL]}
    whole = await client.messages.create(**asked)
    assert [block.to_dict() for block in whole.content] == BLOCKS
    assert whole.stop_reason == "tool_use"
    async with client.messages.stream(**asked) as stream:
        inputs = [event.snapshot async for event in stream if event.type == "input_json"]
        streamed = await stream.get_final_message()
    assert inputs[-1] == {"command": "ls -l"}
    assert (streamed.stop_reason, streamed.stop_sequence) == ("tool_use", None)
    assert streamed.usage.to_dict() == whole.usage.to_dict()
    told = [block.to_dict() for block in streamed.content]
    assert [{k: v for k, v in one.items() if k != "parsed_output"} for one in told] == BLOCKS


@pytest.mark.parametrize("model", ["p", "p:plain"])
async def test_the_events_come_in_their_order(endpoint, model):
    endpoint.context.settings.keepalive = 10
    endpoint.up.messages = [TURN]
    events = events_of((await ask(endpoint, model=model, stream=True)).text)
    kinds = [(event["type"], event.get("index")) for event in events]
    once = [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]
    block = ("content_block_start", "content_block_delta", "content_block_stop")
    assert once == [
        ("message_start", None),
        *((kind, index) for index in range(3) for kind in block),
        ("message_delta", None),
        ("message_stop", None),
    ]
    for event in events:
        EVENT.validate_python(event)
    assert ("pilotfish" in events[-2]) is (model == "p")


async def test_the_policy_is_asked_for_what_the_caller_asked(endpoint):
    same = {"temperature": 0.3, "top_p": 0.9, "top_k": 5, "max_tokens": 7, "seed": 5}
    cache = {"cache_control": {"type": "ephemeral"}}
    image = {"type": "base64", "media_type": "image/png", "data": "AA=="}
    fields = same | {
        "system": [{"type": "text", "text": "Be brief."} | cache],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "see"} | cache,
                    {"type": "image", "source": image},
                    {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}},
                ],
            },
            {"role": "assistant", "content": [dict(block) for block in BLOCKS]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "no",
                     "is_error": True},
                    {"type": "text", "text": "Go on."},
                ],
            },
        ],
        "tools": [TOOL | cache],
        "tool_choice": {"type": "tool", "name": "bash", "disable_parallel_tool_use": True},
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"effort": "low"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    }  # fmt: skip
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "x"}
    answer = await ask(endpoint, model="p:plain", headers=headers, **fields)
    assert answer.status_code == 200
    [sent] = endpoint.up.bodies
    picture = "data:image/png;base64,AA=="
    assert sent == same | {
        "model": "up",
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "see"},
                    {"type": "image_url", "image_url": {"url": picture}},
                    {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
                ],
            },
            {"role": "assistant", "content": "Look first.", "reasoning_content": "think",
             "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "toolu_1", "content": "Error: no"},
            {"role": "user", "content": [{"type": "text", "text": "Go on."}]},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "bash", "description": "Run it.",
                             "parameters": TOOL["input_schema"]},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "bash"}},
        "parallel_tool_calls": False,
        "stop": ["END"],
        "user": "u",
        "chat_template_kwargs": {"enable_thinking": True},
        "reasoning_effort": "low",
    }  # fmt: skip


async def test_what_the_sdk_got_it_can_give_back(endpoint, client):
    endpoint.up.messages = [TURN]
    messages = [*HI]
    for _ in range(2):
        message = await client.messages.create(**ASK | {"messages": messages, "tools": [TOOL]})
        messages.append({"role": "assistant", "content": message.content})
        called = message.content[-1].id
        result = {"type": "tool_result", "tool_use_id": called, "content": "a.py"}
        messages.append({"role": "user", "content": [result]})
    await client.messages.create(**ASK | {"messages": messages})
    sent = endpoint.up.bodies[-1]["messages"]
    assert [message["role"] for message in sent] == ["user", *["assistant", "tool"] * 2]
    assert sent[1] == sent[3] == {"role": "assistant", **TURN}


@pytest.mark.parametrize(
    ("choice", "reason", "sequence"),
    [
        ({"finish_reason": "stop"}, "end_turn", None),
        ({"finish_reason": "stop", "stop_reason": "END"}, "stop_sequence", "END"),
        ({"finish_reason": "stop", "stop_reason": 151645}, "end_turn", None),
        ({"finish_reason": "length"}, "max_tokens", None),
        ({"finish_reason": "content_filter"}, "refusal", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_why_it_stopped_is_told(endpoint, client, stream, choice, reason, sequence):
    endpoint.up.choice = choice
    asked = ASK | {"stop_sequences": ["END"]}
    if stream:
        async with client.messages.stream(**asked) as events:
            message = await events.get_final_message()
    else:
        message = await client.messages.create(**asked)
    assert (message.stop_reason, message.stop_sequence) == (reason, sequence)


async def test_a_prescribed_tool_that_ends_with_stop_is_tool_use(endpoint, client):
    endpoint.up.messages = [{"content": "", "tool_calls": [CALL]}]
    endpoint.up.choice = {"finish_reason": "stop"}
    assert (await client.messages.create(**ASK)).stop_reason == "tool_use"


@pytest.mark.parametrize("stream", [False, True])
async def test_arguments_that_are_no_json_are_given_as_they_are(endpoint, client, stream):
    wrong = CALL | {"function": {"name": "bash", "arguments": '{"command": '}}
    endpoint.up.messages = [{"content": None, "tool_calls": [wrong]}]
    if stream:
        async with client.messages.stream(**ASK) as events:
            message = await events.get_final_message()
    else:
        message = await client.messages.create(**ASK)
    assert message.content[0].input == {"INVALID_JSON": '{"command": '}


async def test_what_was_read_from_a_cache_is_counted_apart(endpoint, client):
    endpoint.up.usage = {"prompt_tokens_details": {"cached_tokens": 8}}
    usage = (await client.messages.create(**ASK)).usage
    assert (usage.input_tokens, usage.cache_read_input_tokens) == (3, 8)


async def test_options_of_the_search_are_chats(endpoint):
    answer = await ask(endpoint, pilotfish={"k": 2}, headers={"x-pilotfish-k": "3"})
    assert answer.json()["pilotfish"]["k"] == 3
    plain = await ask(endpoint, model="p:plain")
    assert "pilotfish" not in plain.json()
    assert plain.json()["model"] == "p:plain"
    assert "n" not in endpoint.up.bodies[-1]


async def test_unguided_chunks_are_passed_on_as_they_come(endpoint):
    endpoint.up.gate = asyncio.Event()
    deltas = []
    async with endpoint.http.stream(
        "POST", "/v1/messages", json=ASK | {"model": "p:plain", "stream": True}
    ) as answer:
        async for line in answer.aiter_lines():
            if line == "event: ping" and deltas:
                endpoint.up.gate.set()
            if line.startswith("data") and "text_delta" in line:
                deltas.append((json.loads(line[6:])["delta"]["text"], endpoint.up.gate.is_set()))
    assert deltas == [("hel", False), ("lo", True)]


async def test_pings_keep_a_stream_alive_while_the_search_goes_on(endpoint):
    endpoint.up.delays = [0.3]
    events = events_of((await ask(endpoint, stream=True)).text)
    assert [event["type"] for event in events[:3]] == ["message_start", "ping", "ping"]


async def test_an_error_before_the_stream_has_a_status(endpoint, client):
    endpoint.context.settings.keepalive = 10
    endpoint.up.broken[0] = JSONResponse({"error": {"message": "maximum context length"}}, 400)
    with pytest.raises(anthropic.BadRequestError, match="maximum context length"):
        await client.messages.create(**ASK, stream=True)


async def test_an_error_in_the_stream_is_an_event(endpoint, client, monkeypatch):
    async def late(*args):
        await asyncio.sleep(0.2)
        raise PolicyError("gone")

    monkeypatch.setattr("service.routes.chat.guided_step", late)
    events = events_of((await ask(endpoint, stream=True)).text)
    told = {"type": "api_error", "message": "policy: gone"}
    assert events[-1] == {"type": "error", "error": told}
    with pytest.raises(anthropic.APIStatusError, match="policy: gone"):
        async with client.messages.stream(**ASK) as stream:
            await stream.get_final_message()


async def test_a_policy_that_breaks_off_is_no_answer(endpoint):
    broken = 'data: {"choices": [{"index": 0, "delta": {"content": "he"}}]}\n\ndata: [DONE]\n\n'
    endpoint.up.broken[0] = Response(broken, media_type="text/event-stream")
    events = events_of((await ask(endpoint, model="p:plain", stream=True)).text)
    assert "ended before the answer" in events[-1]["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_that_leaves_frees_the_policy_and_the_permit(endpoint, stream):
    endpoint.up.delays = [0.0, 30.0]
    asking = asyncio.create_task(ask(endpoint, stream=stream))
    await endpoint.until_asked()
    asking.cancel()
    await asyncio.wait_for(endpoint.up.left.wait(), 5)
    await asyncio.wait_for(endpoint.until_free(), 5)


async def test_tokens_are_counted_by_the_policy(endpoint, client):
    endpoint.up.tokens = 42
    asked = {"model": "p", "messages": HI, "system": "Be brief.", "tools": [TOOL]}
    assert (await client.messages.count_tokens(**asked)).input_tokens == 42
    [sent] = endpoint.up.bodies
    assert set(sent) == {"model", "messages", "tools"}
    assert sent["model"] == "up"
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]


async def test_a_policy_that_cannot_count_says_so(endpoint, client):
    for policy in (endpoint.context.parts.policies["p"], FakePolicy(lambda s, i: "x", name="p")):
        endpoint.context.parts.policies["p"] = policy
        with pytest.raises(anthropic.NotFoundError, match="cannot count tokens"):
            await client.messages.count_tokens(model="p", messages=HI)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": "k1"}, 200),
        ({"Authorization": "Bearer k1"}, 200),
        ({"Authorization": "Bearer old", "x-api-key": "k1"}, 200),
        ({"x-api-key": "k2"}, 401),
        ({"Authorization": "k1"}, 401),
        ({}, 401),
    ],
)
async def test_a_key_is_taken_in_either_header(endpoint, headers, status):
    del endpoint.http.headers["authorization"]
    answer = await ask(endpoint, headers=headers)
    assert answer.status_code == status
    listed = await endpoint.http.get("/v1/models", headers=headers)
    assert listed.status_code == status
    if status == 401:
        assert answer.json()["error"]["type"] == "authentication_error"
        assert answer.json()["type"] == "error"


async def test_what_other_parts_refuse_has_anthropics_shape_too(endpoint):
    large = await endpoint.http.post("/v1/messages", content=b" " * 2**20)
    assert (large.status_code, large.json()["error"]["type"]) == (413, "request_too_large")
    broken = await endpoint.http.post("/v1/messages", content=b"{")
    assert broken.json()["error"]["message"].startswith("the body is not JSON")
    nobody = await ask(endpoint, model="nobody")
    assert (nobody.status_code, nobody.json()["error"]["type"]) == (404, "not_found_error")
    endpoint.context.settings.concurrent_requests = 0
    busy = await ask(endpoint)
    assert (busy.status_code, busy.json()["error"]["type"]) == (429, "rate_limit_error")
    assert busy.headers["retry-after"] == "1"


def said(*blocks):
    return {"messages": [{"role": "user", "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"model": None}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "pirate", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"messages": [*HI, {"role": "assistant", "content": "The"}]}, "messages.1.role"),
        (said({"type": "document"}), "messages.0.content.0.type"),
        (said({"type": "text"}), "messages.0.content.0.text"),
        (said({"type": "image", "source": {"type": "file"}}),
         "messages.0.content.0.source.type"),
        (said({"type": "tool_result", "content": "x"}), "messages.0.content.0.tool_use_id"),
        ({"messages": [{"role": "assistant", "content": [{"type": "redacted_thinking"}]}, *HI]},
         "messages.0.content.0.type"),
        ({"messages": [{"role": "assistant",
                        "content": [{"type": "tool_use", "id": "t", "name": "f"}]}, *HI]},
         "messages.0.content.0.input"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tools": [TOOL | {"defer_loading": True}]}, "tools.0.defer_loading"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"thinking": {"type": "much"}}, "thinking.type"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "thinking.display"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
         "context_management.edits.0"),
        ({"mcp_servers": [{"name": "x"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"speed": "fast"}, "speed"),
        ({"n": 2}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"pilotfish": {"k": 0}}, "pilotfish.k"),
    ],
)  # fmt: skip
async def test_a_wrong_request_names_its_field_in_anthropics_shape(endpoint, fields, where):
    answer = await ask(endpoint, **fields)
    body = answer.json()
    assert (answer.status_code, body["type"]) == (400, "error")
    assert set(body["error"]) == {"type", "message"}
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["message"].startswith(f"{where}: ")
    assert not endpoint.up.bodies


TEXT = st.text(max_size=8)
SAID = st.text(min_size=1, max_size=8)
INPUT = st.dictionaries(SAID, st.text(max_size=4) | st.integers(), max_size=2)
TEXTS = st.lists(st.builds(lambda t: {"type": "text", "text": t}, TEXT), min_size=1, max_size=3)


@st.composite
def histories(draw):
    messages, results = [], []
    for turn in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": [*results, *draw(TEXTS)]})
        blocks = []
        if draw(st.booleans()):
            blocks.append({"type": "thinking", "thinking": draw(SAID), "signature": ""})
        blocks += draw(TEXTS)
        names = [f"t{turn}{i}" for i in range(draw(st.integers(0, 3)))]
        blocks += [
            {"type": "tool_use", "id": name, "name": draw(SAID), "input": draw(INPUT)}
            for name in names
        ]
        results = [
            {"type": "tool_result", "tool_use_id": name, "content": draw(TEXT | TEXTS)}
            | draw(st.just({}) | st.just({"is_error": True}))
            for name in names
        ]
        messages.append({"role": "assistant", "content": blocks})
    messages.append({"role": "user", "content": [*results, *draw(TEXTS)]})
    return messages


def blocks_of(content):
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def back(messages, failed):
    """The other way round; ``failed`` names the calls whose results are marked."""
    history = []
    for message in messages:
        content = message["content"]
        if message["role"] == "tool":
            called = message["tool_call_id"]
            block = {"type": "tool_result", "tool_use_id": called, "content": content}
            if called in failed:
                block["is_error"] = True
                if isinstance(content, str):
                    block["content"] = content.removeprefix("Error: ")
                else:
                    assert content[0]["text"] == "Error: "
                    block["content"] = content[1:]
            blocks = [block]
        elif message["role"] == "assistant":
            thought = message.get("reasoning_content")
            blocks = [{"type": "thinking", "thinking": thought, "signature": ""}] if thought else []
            blocks += blocks_of(content)
            blocks += [
                {"type": "tool_use", "id": call["id"], "name": call["function"]["name"],
                 "input": json.loads(call["function"]["arguments"])}
                for call in message.get("tool_calls", [])
            ]  # fmt: skip
        else:
            blocks = blocks_of(content)
        role = "assistant" if message["role"] == "assistant" else "user"
        if history and history[-1]["role"] == role:
            history[-1]["content"] += blocks
        else:
            history.append({"role": role, "content": list(blocks)})
    return history


@given(histories())
def test_a_history_loses_nothing_on_the_way_to_chat(messages):
    blocks = [block for message in messages for block in message["content"]]
    failed = {block["tool_use_id"] for block in blocks if block.get("is_error")}
    assert back(messages_of(messages), failed) == messages


@st.composite
def answers(draw):
    message = {"role": "assistant", "content": draw(st.none() | TEXT)}
    if draw(st.booleans()):
        message["reasoning_content"] = draw(SAID)
    inputs = draw(st.lists(INPUT.map(json.dumps), max_size=3))
    if inputs:
        message["tool_calls"] = [
            {"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": one}}
            for i, one in enumerate(inputs)
        ]
    return message


@given(answers(), st.integers(1, 4))
def test_the_sdk_puts_streamed_events_together_to_the_whole_answer(message, cut):
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole, parts = MessageEvents(ASK), MessageEvents(ASK)
    whole.add({"choices": [choice], "usage": usage})
    whole.end()

    events = parts.begin()
    for chunk in chunks_of(message, cut):
        events += parts.add(chunk)
    events += parts.end()
    snapshot, held = None, {}
    for event in events:
        snapshot = accumulate_event(
            event=EVENT.validate_python(event), current_snapshot=snapshot, json_bufs=held
        )
    together = snapshot.to_dict()
    given = {name: whole.message[name] for name in ("role", "model", "stop_reason", "usage")}
    assert {name: together[name] for name in given} == given
    content = [{k: v for k, v in one.items() if v is not None} for one in together["content"]]
    assert content == parts.message["content"] == whole.message["content"]


WHOLE = {
    "model": "p",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "x"}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "x"},
                                     {"type": "image", "source": {"type": "url", "url": "x"}}]},
        {"role": "assistant", "content": BLOCKS},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "is_error": True,
                                      "content": [{"type": "text", "text": "x"}]}]},
    ],
    "tools": [TOOL],
    "tool_choice": {"type": "tool", "name": "x", "disable_parallel_tool_use": True},
    "stop_sequences": ["x"],
    "metadata": {"user_id": "x"},
    "thinking": {"type": "enabled", "budget_tokens": 5, "display": "summarized"},
    "chat_template_kwargs": {"x": 1},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}},
    "context_management": {"edits": [{"type": "x", "keep": "all"}]},
    "speed": "standard",
    "stream": True,
}  # fmt: skip


@given(PLACE, ANYTHING)
def test_nothing_wrong_in_a_request_breaks_its_reading(path, other):
    body = replaced(WHOLE, path, other)
    try:
        chat = chat_of(body)
    except ApiError as error:
        wrong = error
    else:
        wrong = None
        json.dumps([chat, MessageEvents(body).begin()] if body else chat)
    assert wrong is None or (wrong.status == 400 and wrong.message.startswith(str(wrong.param)))


@given(PLACE, ANYTHING)
def test_nothing_wrong_in_an_answer_breaks_its_translation(path, other):
    events = MessageEvents(ASK)
    try:
        events.add(replaced(ANSWER, path, other))
        events.end()
    except PolicyError:
        return
    json.dumps(events.message)
