"""The Responses API: what OpenAI's own SDK and a bare caller see, over a real HTTP upstream."""

import asyncio
import json

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from redis.exceptions import ConnectionError as RedisConnectionError
from starlette.responses import JSONResponse, Response

from search.errors import PolicyError
from service.errors import ApiError
from service.wire.items import messages_of
from service.wire.response_events import ResponseEvents
from service.wire.responses import asked_of, chat_of
from tests.service.streamed import ANSWER, ANYTHING, PLACE, chunks_of, replaced

EVENT = TypeAdapter(ResponseStreamEvent)
ASK = {"model": "p", "input": "hi"}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "bash", "arguments": '{"command": "ls -l"}'},
}
TOOL = {
    "type": "function",
    "name": "bash",
    "description": "Run it.",
    "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
    "strict": False,
}
TURN = {"reasoning_content": "think", "content": "Look first.", "tool_calls": [CALL]}


@pytest.fixture
async def client(endpoint):
    async with openai.AsyncOpenAI(
        base_url=f"{endpoint.url}/v1", api_key="k1", max_retries=0
    ) as sdk:
        yield sdk


async def ask(endpoint, body=None, headers=None, **fields):
    return await endpoint.http.post("/v1/responses", json=(body or ASK) | fields, headers=headers)


def events_of(text):
    """Data by its lines, each behind a line that names it."""
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    found = []
    for block in blocks:
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def bare(value):
    """Without what is new in every response."""
    if isinstance(value, dict):
        new = (
            "id",
            "item_id",
            "created_at",
            "completed_at",
            "seconds",
            "policy_seconds",
            "session",
        )
        return {name: bare(one) for name, one in value.items() if name not in new}
    return [bare(one) for one in value] if isinstance(value, list) else value


async def test_the_sdk_gets_the_candidate_of_highest_q(endpoint, client):
    endpoint.up.messages = [{"content": "a"}, {"content": "aaaa"}, {"content": "aa"}]
    extra = {"pilotfish": {"k": 3, "candidates": True}}
    raw = await client.responses.with_raw_response.create(**ASK, extra_body=extra)
    response = raw.parse()
    assert (response.output_text, response.status, response.model) == ("aaaa", "completed", "p")
    assert response.usage.input_tokens == 11
    assert (response.usage.output_tokens, response.usage.total_tokens) == (9, 20)
    assert response.pilotfish["q"] == 0.4
    assert [c["q"] for c in response.pilotfish["candidates"]] == [0.1, 0.4, 0.2]
    assert raw.headers["x-pilotfish-score"] == "0.400000"
    assert response.error is response.incomplete_details is None


async def test_the_sdk_that_blocks_works_too(endpoint):
    def called():
        with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="k1", max_retries=0) as sdk:
            whole = sdk.responses.create(**ASK)
            with sdk.responses.stream(**ASK) as stream:
                streamed = stream.get_final_response()
        return whole, streamed

    whole, streamed = await asyncio.to_thread(called)
    assert whole.output_text == streamed.output_text == "hello"


async def test_reasoning_text_and_calls_are_items(endpoint, client):
    endpoint.up.messages = [TURN]
    response = await client.responses.create(**ASK, tools=[TOOL])
    reasoning, message, call = response.output
    assert [part.text for part in reasoning.content] == ["think"]
    assert message.content[0].text == "Look first."
    assert (call.call_id, call.name) == ("call_1", "bash")
    assert json.loads(call.arguments) == {"command": "ls -l"}
    assert {item.status for item in response.output} == {"completed"}


@pytest.mark.parametrize("model", ["p", "p:plain"])
async def test_a_stream_put_together_is_the_answer(endpoint, client, model):
    endpoint.up.messages = [TURN]
    whole = await client.responses.create(model=model, input="hi", tools=[TOOL])
    async with client.responses.stream(model=model, input="hi", tools=[TOOL]) as stream:
        deltas = [e.snapshot async for e in stream if e.type == "response.output_text.delta"]
        streamed = await stream.get_final_response()
    assert deltas[-1] == "Look first."
    given = streamed.to_dict()
    given["output"][2].pop("parsed_arguments", None)
    for part in given["output"][1]["content"]:
        part.pop("parsed", None)
    assert bare(given) == bare(whole.to_dict())


@pytest.mark.parametrize("model", ["p", "p:plain"])
async def test_the_events_come_in_their_order(endpoint, model):
    endpoint.up.messages = [TURN]
    events = events_of((await ask(endpoint, model=model, stream=True)).text)
    kinds = [event["type"] for event in events]
    once = [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]
    assert once == [
        "response.created", "response.in_progress",
        "response.output_item.added", "response.content_part.added",
        "response.reasoning_text.delta", "response.reasoning_text.done",
        "response.content_part.done", "response.output_item.done",
        "response.output_item.added", "response.content_part.added",
        "response.output_text.delta", "response.output_text.done",
        "response.content_part.done", "response.output_item.done",
        "response.output_item.added", "response.function_call_arguments.delta",
        "response.function_call_arguments.done", "response.output_item.done",
        "response.completed",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        EVENT.validate_python(event)
    added = [e["item"] for e in events if e["type"] == "response.output_item.added"]
    assert [item.get("content", item.get("arguments")) for item in added] == [[], [], ""]


async def test_what_is_parsed_and_tools_by_their_classes(endpoint, client):
    class Sum(BaseModel):
        total: int

    class bash(BaseModel):
        command: str

    endpoint.up.messages = [{"content": '{"total": 3}', "tool_calls": [CALL]}]
    tool = openai.pydantic_function_tool(bash)["function"] | {"type": "function"}
    response = await client.responses.parse(**ASK, text_format=Sum, tools=[tool])
    assert response.output_parsed == Sum(total=3)
    assert response.output[1].parsed_arguments == {"command": "ls -l"}
    form = endpoint.up.bodies[0]["response_format"]
    assert form["json_schema"]["name"] == "Sum"
    assert form["json_schema"]["strict"] is True


async def test_the_policy_is_asked_for_what_the_caller_asked(endpoint):
    same = {"temperature": 0.3, "top_p": 0.9, "parallel_tool_calls": False, "user": "u",
            "prompt_cache_key": "k", "guided_choice": ["a"], "seed": 5}  # fmt: skip
    fields = same | {
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": "Be good."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "see"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AA==",
                     "detail": "low"},
                ],
            },
        ],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "name": "bash"},
        "max_output_tokens": 5,
        "metadata": {"x": "1"},
        "text": {"format": {"type": "json_schema", "name": "s", "schema": {}}, "verbosity": "low"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "truncation": "disabled",
        "store": False,
        "include": ["reasoning.encrypted_content"],
    }  # fmt: skip
    answer = await ask(endpoint, model="p:plain", **fields)
    [sent] = endpoint.up.bodies
    function = {name: value for name, value in TOOL.items() if name != "type"}
    assert sent == same | {
        "model": "up",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Be good."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "see"},
                    {"type": "image_url",
                     "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                ],
            },
        ],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "bash"}},
        "max_tokens": 5,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
        "verbosity": "low",
        "reasoning_effort": "low",
    }  # fmt: skip
    echoed = ("instructions", "tools", "tool_choice", "max_output_tokens", "metadata", "text",
              "reasoning", "store", "temperature", "top_p", "parallel_tool_calls")  # fmt: skip
    assert {name: answer.json()[name] for name in echoed} == {name: fields[name] for name in echoed}


async def test_a_conversation_is_gone_on_with_by_its_last_response(endpoint, client):
    endpoint.up.messages = [TURN]
    first = await client.responses.create(**ASK, instructions="Be brief.")
    output = {"type": "function_call_output", "call_id": "call_1", "output": "a.py"}
    endpoint.up.messages = [{"content": "Done."}]
    second = await client.responses.create(
        model="p", input=[output], previous_response_id=first.id, stream=True
    )
    last = [event async for event in second][-1].response
    await client.responses.create(model="p", input="thanks", previous_response_id=last.id)
    assert endpoint.up.bodies[-1]["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Look first.", "reasoning_content": "think",
         "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "a.py"},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "thanks"},
    ]  # fmt: skip
    got = await client.responses.retrieve(last.id)
    assert bare(got.to_dict()) == bare(last.to_dict())
    assert got.previous_response_id == first.id


async def test_what_the_sdk_got_it_can_give_back(endpoint, client):
    endpoint.up.messages = [TURN]
    items = [{"role": "user", "content": "hi"}]
    for _ in range(2):
        response = await client.responses.parse(model="p", input=items, tools=[TOOL])
        items += response.output
        called = response.output[-1].call_id
        items.append({"type": "function_call_output", "call_id": called, "output": "a.py"})
    await client.responses.create(model="p", input=items)
    sent = endpoint.up.bodies[-1]["messages"]
    assert [message["role"] for message in sent] == ["user", *["assistant", "tool"] * 2]
    assert sent[1] == sent[3] == {"role": "assistant", **TURN}


async def test_each_response_keeps_what_it_adds_and_no_longer_than_its_lifetime(endpoint):
    previous, sizes = None, []
    for _ in range(4):
        fields = {"previous_response_id": previous} if previous else {}
        previous = (await ask(endpoint, input="x" * 3000, **fields)).json()["id"]
        record = await endpoint.context.state.redis.hget(f"pilotfish:response:{previous}", "record")
        sizes.append(len(record))
    assert max(sizes) < 1.2 * min(sizes) < 3000
    redis = endpoint.context.state.redis
    for key in await endpoint.keys():
        await redis.expire(key, 100)
    await ask(endpoint, previous_response_id=previous)
    assert {await redis.ttl(key) > 1000 for key in await endpoint.keys()} == {True}


async def test_a_response_can_be_forgotten(endpoint, client):
    first = await client.responses.create(**ASK)
    second = await client.responses.create(**ASK, previous_response_id=first.id)
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError) as told:
        await client.responses.create(**ASK, previous_response_id=second.id)
    assert (told.value.param, told.value.code) == (
        "previous_response_id", "previous_response_not_found",
    )  # fmt: skip


async def test_what_a_response_was_asked_with_is_listed(endpoint, client):
    spoken = [{"role": "user", "content": text} for text in ("one", "two", "three")]
    response = await client.responses.create(model="p", input=spoken)
    listed = [item async for item in client.responses.input_items.list(response.id, limit=2)]
    assert [item.content[0].text for item in listed] == ["three", "two", "one"]
    first = client.responses.input_items.list(response.id, order="asc")
    assert (await first).data[0].content[0].text == "one"
    with pytest.raises(openai.NotFoundError):
        await client.responses.input_items.list("resp_nope")
    with pytest.raises(openai.BadRequestError, match="after"):
        await client.responses.input_items.list(response.id, after="nope")


async def test_what_is_not_to_be_stored_is_not(endpoint):
    answer = await ask(endpoint, store=False)
    assert answer.json()["store"] is False
    assert await endpoint.keys() == []


async def test_an_answer_that_redis_did_not_take_is_given_and_says_so(endpoint, monkeypatch):
    async def refused(*args, **options):
        raise RedisConnectionError("no Redis")

    pool = endpoint.context.state.redis.connection_pool
    monkeypatch.setattr(pool, "get_connection", refused)
    answer = await ask(endpoint)
    assert (answer.status_code, answer.json()["store"]) == (200, False)
    assert (await ask(endpoint, previous_response_id="resp_1")).status_code == 503


async def test_reasoning_can_be_kept_by_who_keeps_no_texts(endpoint, client):
    endpoint.up.messages = [TURN]
    include = ["reasoning.encrypted_content"]
    response = await client.responses.create(**ASK, store=False, include=include)
    items = [item.to_dict() for item in response.output]
    items[0].pop("content")
    await client.responses.create(model="p", input=[{"role": "user", "content": "hi"}, *items])
    assert endpoint.up.bodies[-1]["messages"][1]["reasoning_content"] == "think"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("finish", "reason"),
    [("length", "max_output_tokens"), ("content_filter", "content_filter")],
)
async def test_an_answer_that_was_cut_is_incomplete(endpoint, client, stream, finish, reason):
    endpoint.up.choice = {"finish_reason": finish}
    answer = await client.responses.create(**ASK, stream=stream)
    if stream:
        events = [event async for event in answer]
        assert events[-1].type == "response.incomplete"
        answer = events[-1].response
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", reason)
    assert answer.output[0].status == "incomplete"


async def test_log_probabilities_are_given_to_who_asks(endpoint, client):
    shown = await client.responses.create(**ASK, top_logprobs=2)
    assert shown.output[0].content[0].logprobs[0].token == "t"
    assert endpoint.up.bodies[0]["top_logprobs"] == 2
    hidden = await client.responses.create(**ASK)
    assert hidden.output[0].content[0].logprobs == []


async def test_what_else_the_policy_said_is_kept(endpoint):
    endpoint.up.beside = {"system_fingerprint": "fp"}
    endpoint.up.usage = {"prompt_tokens_details": {"cached_tokens": 8}}
    answer = (await ask(endpoint)).json()
    assert answer["system_fingerprint"] == "fp"
    assert answer["usage"]["input_tokens_details"]["cached_tokens"] == 8


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
        "POST", "/v1/responses", json=ASK | {"model": "p:plain", "stream": True}
    ) as answer:
        async for line in answer.aiter_lines():
            if line == ": searching" and deltas:
                endpoint.up.gate.set()
            if '"response.output_text.delta"' in line and line.startswith("data"):
                deltas.append((json.loads(line[6:])["delta"], endpoint.up.gate.is_set()))
    assert deltas == [("hel", False), ("lo", True)]


async def test_a_stream_is_kept_alive_while_the_search_goes_on(endpoint):
    endpoint.up.delays = [0.3]
    text = (await ask(endpoint, stream=True)).text
    assert text.count(": searching\n\n") >= 2
    assert text.index("response.in_progress") < text.index(": searching")


async def test_an_error_before_the_stream_has_a_status(endpoint, client):
    endpoint.context.settings.keepalive = 10
    endpoint.up.broken[0] = JSONResponse({"error": {"message": "maximum context length"}}, 400)
    with pytest.raises(openai.BadRequestError) as told:
        await client.responses.create(**ASK, stream=True)
    assert (told.value.code, told.value.param) == ("context_length_exceeded", "input")


async def test_an_error_in_the_stream_fails_the_response(endpoint, client, monkeypatch):
    async def late(*args):
        await asyncio.sleep(0.2)
        raise PolicyError("gone")

    monkeypatch.setattr("service.routes.chat.guided_step", late)
    events = [event async for event in await client.responses.create(**ASK, stream=True)]
    assert [event.type for event in events[-1:]] == ["response.failed"]
    assert events[-1].response.error.message == "policy: gone"
    assert events[-1].response.error.code == "server_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_that_leaves_frees_the_policy_and_the_permit(endpoint, stream):
    endpoint.up.delays = [0.0, 30.0]
    asking = asyncio.create_task(ask(endpoint, stream=stream))
    await endpoint.until_asked()
    asking.cancel()
    await asyncio.wait_for(endpoint.up.left.wait(), 5)
    await asyncio.wait_for(endpoint.until_free(), 5)
    assert await endpoint.keys() == []


async def test_a_caller_that_leaves_an_unguided_stream_stops_the_policy(endpoint):
    endpoint.up.gate = asyncio.Event()
    asking = asyncio.create_task(ask(endpoint, model="p:plain", stream=True))
    await endpoint.until_asked()
    asking.cancel()
    await asyncio.wait_for(endpoint.up.left.wait(), 5)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": ["x"]}, "input.0"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"input": [{"role": "pirate", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]},
         "input.0.content.0.type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
         "input.0.content.0.image_url"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]},
         "input.0.call_id"),
        ({"input": [{"type": "reasoning", "encrypted_content": "gAAA"}]},
         "input.0.encrypted_content"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [TOOL, {"type": "function"}]}, "tools.1.name"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["file_search_call.results"]}, "include.0"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"size": 3}}, "text.size"),
        ({"reasoning": {"mode": "deep"}}, "reasoning.mode"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"n": 2}, "n"),
        ({"store": "no"}, "store"),
        ({"stream": "yes"}, "stream"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
        ({"pilotfish": {"k": 0}}, "pilotfish.k"),
        ({"instructions": ["x"]}, "instructions"),
    ],
)  # fmt: skip
async def test_a_wrong_request_names_its_field_in_openais_shape(endpoint, fields, param):
    answer = await ask(endpoint, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].startswith(param)
    assert not endpoint.up.bodies


async def test_a_policy_that_breaks_off_is_no_answer(endpoint):
    broken = 'data: {"choices": [{"index": 0, "delta": {"content": "he"}}]}\n\ndata: [DONE]\n\n'
    endpoint.up.broken[0] = Response(broken, media_type="text/event-stream")
    events = events_of((await ask(endpoint, model="p:plain", stream=True)).text)
    assert events[-1]["type"] == "response.failed"
    assert "ended before the answer" in events[-1]["response"]["error"]["message"]


TEXT = st.text(max_size=8)
SAID = st.text(min_size=1, max_size=8)
ARGUMENTS = st.dictionaries(SAID, st.text(max_size=4), max_size=2).map(json.dumps)


@st.composite
def turns(draw):
    """What an agent says in a row, and the results of its calls."""
    items = []
    if draw(st.booleans()):
        content = [{"type": "reasoning_text", "text": draw(SAID)}]
        items.append({"type": "reasoning", "summary": [], "content": content})
    if draw(st.booleans()):
        parts = [{"type": "output_text", "text": one} for one in draw(st.lists(SAID, min_size=1))]
        items.append({"type": "message", "role": "assistant", "content": parts})
    names = draw(st.lists(SAID, max_size=3, unique=True))
    items += [
        {"type": "function_call", "call_id": name, "name": name, "arguments": draw(ARGUMENTS)}
        for name in names
    ]
    items += [
        {"type": "function_call_output", "call_id": name, "output": draw(TEXT)} for name in names
    ]
    return items


@st.composite
def histories(draw):
    items = []
    for _ in range(draw(st.integers(1, 3))):
        parts = st.fixed_dictionaries({"type": st.just("input_text"), "text": TEXT})
        content = draw(TEXT | st.lists(parts, min_size=1, max_size=3))
        items.append({"type": "message", "role": "user", "content": content})
        items += draw(turns())
    return items


def items_of(messages):
    """The other way round."""
    items = []
    for message in messages:
        content = message.get("content")
        if message["role"] == "tool":
            called = message["tool_call_id"]
            items.append({"type": "function_call_output", "call_id": called, "output": content})
            continue
        if thought := message.get("reasoning_content"):
            said = [{"type": "reasoning_text", "text": thought}]
            items.append({"type": "reasoning", "summary": [], "content": said})
        kind = "output_text" if message["role"] == "assistant" else "input_text"
        if isinstance(content, list):
            content = [{"type": kind, "text": part["text"]} for part in content]
        elif content is not None and message["role"] == "assistant":
            content = [{"type": kind, "text": content}]
        if content is not None:
            items.append({"type": "message", "role": message["role"], "content": content})
        items += [
            {"type": "function_call", "call_id": call["id"], **call["function"]}
            for call in message.get("tool_calls", [])
        ]
    return items


@given(histories())
def test_a_history_loses_nothing_on_the_way_to_chat(items):
    assert items_of(messages_of(items)) == items


@st.composite
def messages(draw):
    message = {"role": "assistant", "content": draw(st.none() | TEXT)}
    if draw(st.booleans()):
        message["reasoning_content"] = draw(SAID)
    calls = draw(st.lists(ARGUMENTS, max_size=3))
    if calls:
        message["tool_calls"] = [
            {"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": one}}
            for i, one in enumerate(calls)
        ]
    return message


@given(messages(), st.integers(1, 4))
def test_the_sdk_puts_streamed_events_together_to_the_whole_answer(message, cut):
    asked = asked_of(ASK)
    whole = ResponseEvents(asked)
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole.add({"choices": [choice], "usage": usage})
    whole.end()

    parts = ResponseEvents(asked)
    state = ResponseStreamState(input_tools=openai.omit, text_format=openai.omit)
    events = parts.begin()
    for chunk in chunks_of(message, cut):
        events += parts.add(chunk)
    events += parts.end()
    for event in [*events, parts.last()]:
        state.handle_event(EVENT.validate_python(event))
    snapshot = [item.to_dict() for item in state._output_items.values()]
    done = [item.to_dict() for item in state._completed_output.values()]
    assert bare(parts.response) == bare(whole.response)
    assert bare(sorted_by(done, parts.response["output"])) == bare(whole.response["output"])
    said = [(one.get("content"), one.get("arguments")) for one in snapshot if "role" in one]
    assert [texts(content) for content, _ in said] == [
        texts(one["content"]) for one in whole.response["output"] if "role" in one
    ]


def sorted_by(items, order):
    ids = [one["id"] for one in order]
    return sorted(items, key=lambda one: ids.index(one["id"]))


def texts(content):
    return "".join(part["text"] for part in content)


WHOLE = {
    "model": "p",
    "instructions": "x",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "x"},
                                     {"type": "input_image", "image_url": "x"},
                                     {"type": "input_file", "file_id": "x"}]},
        {"type": "reasoning", "summary": [{"text": "x"}], "content": [{"text": "x"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
        {"type": "function_call", "call_id": "x", "name": "x", "arguments": "x"},
        {"type": "function_call_output", "call_id": "x",
         "output": [{"type": "input_text", "text": "x"}]},
    ],
    "tools": [TOOL],
    "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "x"}]},
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}},
    "reasoning": {"effort": "low"},
    "include": ["reasoning.encrypted_content"],
    "stream_options": {"include_obfuscation": False},
    "truncation": "disabled",
    "store": True,
    "stream": True,
    "previous_response_id": "x",
    "background": False,
}  # fmt: skip


@given(PLACE, ANYTHING)
def test_nothing_wrong_in_a_request_breaks_its_reading(path, other):
    try:
        asked = asked_of(replaced(WHOLE, path, other))
        chat = chat_of(asked, [])
    except ApiError as error:
        wrong = error
    else:
        wrong = None
        json.dumps([chat, ResponseEvents(asked).begin()] if "model" in asked.body else chat)
    assert wrong is None or (wrong.status == 400 and wrong.message.startswith(str(wrong.param)))


@given(PLACE, ANYTHING)
def test_nothing_wrong_in_an_answer_breaks_its_translation(path, other):
    events = ResponseEvents(asked_of(ASK))
    try:
        events.add(replaced(ANSWER, path, other))
        events.end()
    except PolicyError:
        return
    json.dumps(events.last())
