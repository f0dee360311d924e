"""Chat completions: what a caller sees, over a real HTTP upstream and a real Redis."""

import asyncio
import gzip
import json

import httpx
import pytest
from starlette.responses import JSONResponse, Response
from structlog.testing import capture_logs

from search.fakes import FakeCritic
from service.app import create_app
from service.policies.openai_endpoint import OpenAIPolicy
from service.routes import chat
from service.settings import ConstantCriticSettings, EndpointPolicy, FakeSandboxSettings, Settings
from tests.upstream import serving, upstream

ASK = {"model": "p", "messages": [{"role": "user", "content": "hi"}]}


class Service:
    """The service over an upstream, and a client of it."""

    def __init__(self, up, app, client):
        self.up, self.app, self.client = up, app, client

    @property
    def context(self):
        return self.app.state.context

    async def ask(self, body=None, headers=None, **fields):
        return await self.client.post(
            "/v1/chat/completions", json=(body or ASK) | fields, headers=headers
        )


@pytest.fixture
async def service(redis_url):
    async with upstream() as up:
        settings = Settings(
            policies={"p": EndpointPolicy(url=up.url, model="up", timeout=20)},
            critics={"c": ConstantCriticSettings(type="constant")},
            sandboxes={"fake": FakeSandboxSettings(type="fake")},
            redis_url=redis_url,
            worker=False,
            max_body_mb=0.5,
        )
        app = create_app(settings)
        async with serving(app) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
            by_length = FakeCritic(lambda s, a: min(1.0, len(a.text) / 10), name="c")
            app.state.context.parts.critics["c"] = by_length
            yield Service(up, app, client)


async def test_the_answer_is_the_candidate_of_highest_q(service):
    service.up.messages = [{"content": "a"}, {"content": "aaaa"}, {"content": "aa"}]
    answer = await service.ask(pilotfish={"k": 3, "candidates": True})
    body = answer.json()
    assert answer.status_code == 200
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "aaaa"}
    assert body["choices"][0]["index"] == 0
    assert len(body["choices"]) == 1
    assert body["usage"] == {"prompt_tokens": 11, "completion_tokens": 9, "total_tokens": 20}
    assert (body["model"], body["object"]) == ("p", "chat.completion")
    assert body["pilotfish"]["q"] == 0.4
    assert [c["q"] for c in body["pilotfish"]["candidates"]] == [0.1, 0.4, 0.2]
    assert answer.headers["x-pilotfish-score"] == "0.400000"
    assert answer.headers["x-pilotfish-candidates"] == "3"


async def test_the_policy_gets_what_the_caller_sent(service):
    fields = {
        "temperature": 0.3,
        "max_tokens": 5,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": "auto",
        "guided_choice": ["a"],
        "metadata": {"x": 1},
    }
    message = {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "me"}
    await service.ask(messages=[message], **fields)
    [sent] = service.up.bodies
    assert {name: sent[name] for name in fields} == fields
    assert sent["messages"] == [message]
    assert (sent["model"], sent["n"], sent["stream"]) == ("up", 4, True)
    assert set(sent) == {*fields, "model", "messages", "n", "stream", "stream_options", "logprobs"}


async def test_tool_calls_and_reasoning_come_back_as_they_were(service):
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "bash", "arguments": '{"command": "ls -l"}'},
    }
    service.up.messages = [{"content": None, "reasoning_content": "think", "tool_calls": [call]}]
    choice = (await service.ask()).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "think",
        "tool_calls": [call],
    }


@pytest.mark.parametrize(("model", "k"), [("p", 3), ("p:lookahead", 1), ("p:plain", None)])
async def test_a_policy_that_cannot_stream_is_asked_for_none(service, model, k):
    service.context.parts.policies["p"].settings.stream = False
    service.up.messages = [{"content": "words"}]
    options = {} if k is None else {"pilotfish": {"k": k}}
    assert (await service.ask(model=model, **options)).status_code == 200
    answer = await service.ask(model=model, stream=True, **options)
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events[:-1]]
    said = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert (said, events[-1]) == ("words", "[DONE]")
    assert len(service.up.bodies) == 2 * (k or 1)
    assert not any(body.get("stream") or "n" in body for body in service.up.bodies)


async def test_every_option_reaches_the_search(service, monkeypatch):
    asked = []
    inner = chat.guided_step

    async def watched(policy, critic, state, lookahead, session):
        asked.append((critic.name, lookahead, session))
        return await inner(policy, critic, state, lookahead, session)

    monkeypatch.setattr(chat, "guided_step", watched)
    service.context.parts.critics["d"] = FakeCritic(lambda s, a: 0.5, name="d")
    options = {"k": 2, "pick": "softmax", "pick_temperature": 0.2, "threshold": 0.7,
               "deadline": 9.0, "critic": "d", "session": "s1"}  # fmt: skip
    headers = {f"x-pilotfish-{k.replace('_', '-')}": str(v) for k, v in options.items()}
    for given in ({"pilotfish": options}, {"headers": headers}):
        assert (await service.ask(**given)).status_code == 200
    for critic, lookahead, session in asked:
        searched = {"critic": critic, "session": session} | {
            name: getattr(lookahead, name) for name in options if hasattr(lookahead, name)
        }
        assert searched == options
    assert len(asked) == 2


async def test_an_upstream_that_leaves_out_what_it_should_say_is_answered(service):
    bare = {"choices": [{"index": 0, "message": {"content": "hello"}}]}
    service.up.broken[0] = JSONResponse(bare)
    answer = await service.ask(pilotfish={"k": 1}, logprobs=True)
    assert answer.status_code == 200
    assert "hello" in answer.text


async def test_the_stream_of_an_only_candidate_is_the_upstreams_byte_for_byte(service):
    answers = [
        await service.ask(model=model, pilotfish=ours, stream=True)
        for model, ours in (("p", {"k": 1}), ("p:plain", {}))
    ]
    assert answers[0].content == answers[1].content
    assert answers[0].headers["x-pilotfish-session"]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_else_the_upstream_said_is_kept(service, k, stream):
    details = {"prompt_tokens_details": {"cached_tokens": 8}}
    service.up.beside, service.up.usage = {"system_fingerprint": "fp", "new": {"x": 1}}, details
    options = {"stream_options": {"include_usage": True}} if stream else {}
    answer = await service.ask(pilotfish={"k": k}, stream=stream, **options)
    if stream:
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
        bodies = [json.loads(line) for line in lines]
    else:
        bodies = [answer.json()]
    for body in bodies:
        assert {name: body[name] for name in service.up.beside} == service.up.beside
        assert body["model"] == ("up" if stream and k == 1 else "p")
    assert bodies[-1]["usage"] == details | {
        "prompt_tokens": 11,
        "completion_tokens": bodies[-1]["usage"]["completion_tokens"],
        "total_tokens": bodies[-1]["usage"]["total_tokens"],
    }


@pytest.mark.parametrize("model", ["p", "p:plain"])
async def test_a_stream_is_the_winner_as_the_upstream_would_have_streamed_it(service, model):
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "bash", "arguments": '{"command": "ls"}'},
    }
    service.up.messages = [{"content": "text", "tool_calls": [call]}]
    answer = await service.ask(model=model, stream=True, stream_options={"include_usage": True})
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    assert "".join(d.get("content") or "" for d in deltas) == "text"
    arguments = [d["tool_calls"][0]["function"].get("arguments", "") for d in deltas
                 if "tool_calls" in d]  # fmt: skip
    assert "".join(arguments) == '{"command": "ls"}'
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]][-1] == "tool_calls"
    assert chunks[-1]["usage"]["prompt_tokens"] == 11


async def test_a_stream_is_kept_alive_while_the_search_goes_on(service, monkeypatch):
    monkeypatch.setattr(service.context.settings, "keepalive", 0.05)
    service.up.delays = [0.3]
    lines = []
    async with service.client.stream(
        "POST", "/v1/chat/completions", json=ASK | {"stream": True}
    ) as answer:
        async for line in answer.aiter_lines():
            lines.append(line)
    assert lines.count(": searching") >= 2
    assert "data: [DONE]" in lines


async def test_an_error_before_the_stream_has_a_status(service):
    service.up.broken[0] = JSONResponse({"error": {"message": "tools are wrong"}}, 400)
    answer = await service.ask(stream=True)
    assert answer.status_code == 400
    assert "tools are wrong" in answer.json()["error"]["message"]


async def test_an_error_that_nobody_expected_is_in_the_stream_and_in_the_log(service, monkeypatch):
    monkeypatch.setattr(service.context.settings, "keepalive", 0.05)

    def broken(state, action):
        raise RuntimeError("a defect")

    service.context.parts.critics["c"] = FakeCritic(broken, delay=0.2)
    service.up.messages = [{"content": "a"}, {"content": "b"}]
    with capture_logs() as logged:
        answer = await service.ask(stream=True)
    assert "internal error; the log has more" in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    assert [str(entry["exc_info"]) for entry in logged] == ["a defect"]


async def test_the_plain_alias_asks_for_one_and_passes_the_answer_through(service):
    answer = await service.ask(model="p:plain", logprobs=True)
    assert service.up.bodies == [{**ASK, "model": "up", "logprobs": True}]
    assert answer.json()["id"] == "up-1"
    assert "pilotfish" not in answer.json()


async def test_a_header_wins_over_the_body(service):
    answer = await service.ask(pilotfish={"k": 2}, headers={"x-pilotfish-k": "3"})
    assert answer.json()["pilotfish"]["k"] == 3


async def test_n_keeps_its_meaning_best_first(service):
    service.up.messages = [{"content": "a" * i} for i in (1, 3, 2, 4)]
    body = (await service.ask(n=2)).json()
    assert [c["message"]["content"] for c in body["choices"]] == ["aaaa", "aaa"]
    assert [c["index"] for c in body["choices"]] == [0, 1]


async def test_log_probabilities_are_shown_only_to_who_asked(service):
    assert (await service.ask()).json()["choices"][0]["logprobs"] is None
    shown = (await service.ask(logprobs=True)).json()["choices"][0]["logprobs"]
    assert shown["content"][0]["token"] == "t"


async def test_a_policy_without_n_gets_k_requests_at_once(service):
    service.context.parts.policies["p"].settings.n = False
    service.up.broken[1] = JSONResponse({"error": {"message": "no"}}, 422)
    body = (await service.ask(seed=5)).json()
    assert sorted(sent["seed"] for sent in service.up.bodies) == [5, 6, 7, 8]
    assert body["pilotfish"]["degraded"] is True
    assert body["choices"][0]["message"]["content"] == "hello"
    assert body["usage"]["prompt_tokens"] == 4 * 11


async def test_with_the_critic_down_it_answers_and_says_so(service):
    service.context.parts.critics["c"].down = True
    service.up.messages = [{"content": "a"}, {"content": "b"}, {"content": "b"}, {"content": "c"}]
    answer = await service.ask()
    assert answer.json()["choices"][0]["message"]["content"] == "b"
    assert answer.json()["pilotfish"]["reason"] == "majority"
    assert answer.headers["x-pilotfish-degraded"] == "true"


async def test_an_overloaded_policy_is_tried_again(service):
    service.up.broken[0] = JSONResponse({}, 503)
    assert (await service.ask()).status_code == 200
    assert len(service.up.bodies) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_that_leaves_frees_the_policy_and_the_permit(service, stream):
    service.up.delays = [0.0, 30.0]
    asking = asyncio.create_task(service.ask(stream=stream))
    while not service.up.bodies:
        await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.wait_for(service.up.left.wait(), 5)
    while service.context.under_way:
        await asyncio.sleep(0.01)


async def test_overload_is_answered_at_once(service):
    service.context.settings.concurrent_requests = 1
    service.up.delays = [0.0, 30.0]
    asking = asyncio.create_task(service.ask())
    while not service.up.bodies:
        await asyncio.sleep(0.01)
    answer = await service.ask()
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["type"] == "rate_limit_error"
    asking.cancel()


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (ASK | {"model": "nobody"}, 404, "model"),
        (ASK | {"model": ""}, 400, "model"),
        ({"model": "p"}, 400, "messages"),
        (ASK | {"messages": []}, 400, "messages"),
        (ASK | {"messages": [{"role": "pirate"}]}, 400, "messages.0.role"),
        (ASK | {"n": 0.5}, 400, "n"),
        (ASK | {"n": 65}, 400, "n"),
        (ASK | {"n": 0}, 400, "n"),
        (ASK | {"n": True}, 400, "n"),
        (ASK | {"stream_options": "usage"}, 400, "stream_options"),
        (ASK | {"stream": "false"}, 400, "stream"),
        (ASK | {"pilotfish": {"k": 0}}, 400, "pilotfish.k"),
        (ASK | {"pilotfish": {"k": 65}}, 400, "pilotfish.k"),
        (ASK | {"pilotfish": {"strategy": "mcts"}}, 400, "pilotfish.strategy"),
        (ASK | {"pilotfish": {"pick": "worst"}}, 400, "pilotfish.pick"),
        (ASK | {"pilotfish": {"critic": "nobody"}}, 404, "critic"),
        (ASK | {"pilotfish": 3}, 400, "pilotfish"),
    ],
)
async def test_a_wrong_request_names_its_field_in_openais_shape(service, body, status, param):
    answer = await service.client.post("/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert set(error) == {"message", "type", "param", "code"}
    assert not service.up.bodies


JSON = {"content-type": "application/json"}


async def test_what_is_not_json_is_said_to_be(service):
    for content in (b"{", b"[1]", b"[" * 100_000):
        answer = await service.client.post("/v1/chat/completions", content=content)
        assert answer.status_code == 400
        assert "JSON" in answer.json()["error"]["message"]
    for path in ("/v1/score", "/v1/runs", "/v1/lookahead", "/v1/selections"):
        answer = await service.client.post(path, content=b"{", headers=JSON)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith("the body is not JSON")
        assert answer.json()["error"]["param"] is None


@pytest.mark.parametrize("value", ["NaN", r'"\ud800"'])
async def test_what_cannot_be_passed_on_as_json_is_refused(service, value):
    content = json.dumps(ASK | {"user": 0}).replace('"user": 0', f'"user": {value}')
    answer = await service.client.post("/v1/chat/completions", content=content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "policy_refused")


async def test_a_body_too_large_is_told_in_openais_shape(service):
    async def pieces():
        for _ in range(16):
            yield b" " * 2**16

    for content in (b" " * 2**20, pieces()):
        for path in ("/v1/chat/completions", "/v1/score"):
            answer = await service.client.post(path, content=content)
            assert answer.status_code == 413
            assert "at most 0.5 MB" in answer.json()["error"]["message"]
            if not isinstance(content, bytes):
                break


def events(*chunks):
    text = "".join(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks)
    return Response(text, media_type="text/event-stream")


async def test_a_line_separator_in_what_a_candidate_says_does_not_break_it(service):
    said = {"delta": {"content": "a\u2028b\x85c"}, "finish_reason": "stop"}
    service.up.broken[0] = events(*({"choices": [{"index": i, **said}]} for i in range(4)))
    answer = (await service.ask()).json()
    assert answer["choices"][0]["message"]["content"] == "a\u2028b\x85c"


async def test_a_compressed_stream_is_passed_on_readable(service):
    packed = {"content-encoding": "gzip", "content-type": "text/event-stream"}
    service.up.broken[0] = Response(gzip.compress(b"data: hi\n\n"), headers=packed)
    assert (await service.ask(model="p:plain", stream=True)).text == "data: hi\n\n"


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [{"index": 0, "message": None}]},
        {"choices": [], "usage": "much"},
        {"choices": []},
    ],
)
async def test_a_policy_without_n_that_answers_nonsense_does_not_hang(service, answer):
    service.context.parts.policies["p"].settings.n = False
    service.up.broken = dict.fromkeys(range(9), JSONResponse(answer))
    told = await asyncio.wait_for(service.ask(), 5)
    assert (told.status_code, told.json()["error"]["code"]) == (502, "policy_error")


@pytest.mark.parametrize(
    ("upstream_says", "status", "code"),
    [
        (JSONResponse({"error": {"message": "maximum context length is 9"}}, 400), 400,
         "context_length_exceeded"),
        (JSONResponse({"error": {"message": "bad tool"}}, 400), 400, "policy_refused"),
        (JSONResponse({"error": {"message": "who?"}}, 401), 502, "policy_error"),
        (JSONResponse({"detail": "boom"}, 500), 502, "policy_error"),
        (JSONResponse(["nonsense"]), 502, "policy_error"),
        (JSONResponse({"error": "no such model"}, 400), 400, "policy_refused"),
        (events({"error": "boom"}), 502, "policy_error"),
        (events({"choices": [{"delta": {}}]}), 502, "policy_error"),
        (events({"choices": ["nonsense"]}), 502, "policy_error"),
        (events({"usage": "much"}), 502, "policy_error"),
    ],
)  # fmt: skip
async def test_what_the_policy_answers_wrong_is_told_apart(service, upstream_says, status, code):
    service.up.broken = dict.fromkeys(range(9), upstream_says)
    answer = await service.ask(pilotfish={"k": 2})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_policy_that_is_not_there_is_named(service):
    away = EndpointPolicy(url="http://127.0.0.1:9", model="m")
    service.context.parts.policies["p"] = OpenAIPolicy("p", away)
    answer = await service.ask()
    assert answer.status_code == 502
    assert "policy:" in answer.json()["error"]["message"]


async def test_models_are_listed_with_their_aliases(service):
    listed = (await service.client.get("/v1/models")).json()
    assert [m["id"] for m in listed["data"]] == ["p", "p:plain", "p:lookahead"]


async def test_the_openai_sdk_is_guided_by_its_base_url(service):
    openai = pytest.importorskip("openai")
    service.up.messages = [{"content": "a"}, {"content": "aaaa"}]
    url = str(service.client.base_url)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any") as client:
        whole = await client.chat.completions.create(
            model="p", messages=ASK["messages"], extra_body={"pilotfish": {"k": 2}}
        )
        assert whole.choices[0].message.content == "aaaa"
        stream = await client.chat.completions.create(
            model="p:lookahead", messages=ASK["messages"], stream=True
        )
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(texts) == "aaaa"
