"""Sessions: what is kept of an outside agent's calls, how they are known again, how guided."""

import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotfish import Message
from search.fakes import FakeCritic
from service.app import create_app
from service.redis_sessions import RedisSessions
from service.sessions import Sessions, chain, trajectory_of
from service.settings import ConstantCriticSettings, EndpointPolicy, FakeSandboxSettings, Settings
from tests.upstream import serving, upstream

SYSTEM = {"role": "system", "content": "You fix bugs."}
TASK = {"role": "user", "content": "Fix it."}


class Agent:
    """A scaffold that keeps its history and sends it whole."""

    def __init__(self, client, path="", headers=None, **fields):
        self.client, self.path, self.headers, self.fields = client, path, headers, fields
        self.history = [SYSTEM, TASK]

    async def call(self, **fields):
        body = {"model": "p", "messages": self.history, "pilotfish": {"k": 3}}
        answer = await self.client.post(
            f"{self.path}/v1/chat/completions",
            json=body | self.fields | fields,
            headers=self.headers,
        )
        assert answer.status_code == 200, answer.text
        self.session = answer.headers["x-pilotfish-session"]
        return answer

    async def step(self, observation, **fields):
        answer = (await self.call(**fields)).json()
        self.history = [
            *self.history,
            answer["choices"][0]["message"],
            {"role": "user", "content": observation},
        ]
        return answer


@pytest.fixture
async def served(redis_url):
    async with upstream() as up:
        settings = Settings(
            policies={"p": EndpointPolicy(url=up.url, model="up", timeout=20)},
            critics={"c": ConstantCriticSettings(type="constant")},
            sandboxes={"fake": FakeSandboxSettings(type="fake")},
            redis_url=f"{redis_url}?db=7",
            worker=False,
            keys=["plain", {"key": "five", "guide": {"k": 5, "critic": "none"}}],
        )
        app = create_app(settings)
        headers = {"Authorization": "Bearer plain"}
        async with (
            serving(app) as url,
            httpx.AsyncClient(base_url=url, timeout=20, headers=headers) as client,
        ):
            await app.state.context.state.redis.flushdb()
            by_length = FakeCritic(lambda s, a: min(1.0, len(a.text) / 10), name="c")
            app.state.context.parts.critics["c"] = by_length
            up.messages = [{"content": "a"}, {"content": "aaaa"}, {"content": "aa"}]
            client.up, client.context = up, app.state.context
            yield client


async def trajectory(client, session):
    answer = await client.get(f"/v1/sessions/{session}/trajectory")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_calls_that_name_no_session_are_known_by_their_history(served):
    agent = Agent(served)
    sessions = set()
    for observation in ("one", "two", "three"):
        await agent.step(observation)
        sessions.add(agent.session)
    assert len(sessions) == 1
    kept = await trajectory(served, agent.session)
    assert [m["content"] for m in kept["prefix"]] == ["You fix bugs.", "Fix it."]
    assert len(kept["steps"]) == 3
    assert [s["replies"][0]["content"] for s in kept["steps"][:2]] == ["one", "two"]
    assert [c["q"] for c in kept["steps"][0]["decision"]["candidates"]] == [0.1, 0.4, 0.2]
    assert (kept["policy"], kept["critic"]) == ("p", "c")


async def test_agents_with_other_histories_have_other_sessions(served):
    one = Agent(served)
    await one.step("here")
    served.up.messages = [{"content": "another turn"}]
    other = Agent(served)
    await other.step("there")
    assert one.session != other.session
    third = Agent(served)
    third.history = [SYSTEM, {"role": "user", "content": "Another."}]
    await third.step("x")
    assert third.session != one.session


@pytest.mark.parametrize("how", ["header", "path", "body", "ours"])
async def test_a_session_is_named(served, how):
    name = f"mine-{how}"
    match how:
        case "header":
            agent = Agent(served, headers={"X-Session-ID": name})
        case "path":
            agent = Agent(served, path=f"/sessions/{name}", headers={"X-Session-ID": "other"})
        case "body":
            agent = Agent(served, pilotfish={"session": name})
        case _:
            agent = Agent(
                served, headers={"x-pilotfish-session": name}, pilotfish={"session": "other"}
            )
    await agent.step("one")
    await agent.step("two")
    assert agent.session == name
    assert len((await trajectory(served, name))["steps"]) == 2


async def test_a_history_that_a_scaffold_has_tidied_up_is_known_again(served):
    served.up.messages = [{"content": " said \n", "reasoning_content": "long thoughts"}]
    agent = Agent(served)
    await agent.step("one")
    first = agent.session
    agent.history[2] = {"role": "assistant", "content": "said"}
    await agent.step("two")
    assert agent.session == first


async def test_arguments_of_tools_may_be_written_anew(served):
    call = {"id": "c1", "type": "function"}
    arguments = {"function": {"name": "bash", "arguments": '{"b":1,"a":2}'}}
    served.up.messages = [{"content": None, "tool_calls": [call | arguments]}]
    agent = Agent(served)
    await agent.step("x")
    first = agent.session
    agent.history[2]["tool_calls"][0]["function"]["arguments"] = '{"a": 2, "b": 1}'
    agent.history[3] = {"role": "tool", "tool_call_id": "c1", "content": "done"}
    await agent.call()
    assert agent.session == first


async def test_an_agent_that_words_its_turns_anew_is_known_where_it_names_its_session(served):
    agent = Agent(served, path="/sessions/worded")
    for number in range(3):
        await agent.step(f"saw {number}")
        agent.history[-2] = {"role": "assistant", "content": f"I called tool {number}."}
    kept = await trajectory(served, "worded")
    assert [s["decision"]["candidates"][1]["message"]["content"] for s in kept["steps"]] == [
        "aaaa"
    ] * 3
    assert [[m["content"] for m in s["replies"]] for s in kept["steps"]] == [
        ["saw 0"],
        ["saw 1"],
        [],
    ]
    known = await served.context.state.redis.hlen("pilotfish:histories:worded")
    assert known == 6  # two a call, however long the history


async def test_of_an_agent_that_went_back_the_longest_way_is_kept(served):
    agent = Agent(served, headers={"X-Session-ID": "back"})
    await agent.step("one")
    fork = agent.history
    for observation in ("two", "three"):
        await agent.step(observation)
    agent.history = [*fork[:-1], {"role": "user", "content": "another one"}]
    await agent.step("dead end")
    kept = await trajectory(served, "back")
    assert [s["replies"][0]["content"] for s in kept["steps"][:-1]] == ["one", "two"]
    assert len(kept["steps"]) == 3


async def test_a_call_that_is_sent_again_is_one_step(served):
    agent = Agent(served, headers={"X-Session-ID": "again"})
    await agent.step("one")
    await agent.call()
    await agent.call()
    assert len((await trajectory(served, "again"))["steps"]) == 2


async def test_of_each_call_only_what_is_new_is_kept(served):
    agent = Agent(served, headers={"X-Session-ID": "long"})
    for i in range(12):
        await agent.step(f"observation {i}")
    calls = await served.context.sessions.state.calls("long")
    assert [len(call["messages"]) for call in calls] == [2] + 11 * [1]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_not_guided_is_kept_too(served, stream):
    agent = Agent(served, headers={"X-Session-ID": f"plain-{stream}"}, model="p:plain")
    await agent.call(stream=stream, pilotfish={})
    kept = await trajectory(served, agent.session)
    [step] = kept["steps"]
    assert step["decision"]["candidates"][0]["message"]["content"] == "a"
    assert step["decision"]["candidates"][0].get("q") is None


async def test_a_guided_stream_is_kept_and_names_its_session(served):
    agent = Agent(served, headers={"X-Session-ID": "streamed"})
    answer = await agent.call(stream=True)
    assert '"session": "streamed"' in answer.text
    assert len((await trajectory(served, "streamed"))["steps"]) == 1


async def test_responses_belong_to_sessions_too(served):
    body = {"model": "p", "input": "Fix it.", "pilotfish": {"k": 2}}
    answer = await served.post("/sessions/resp/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    assert len((await trajectory(served, "resp"))["steps"]) == 1
    assert (await served.get("/sessions/resp/v1/models")).status_code == 200


async def test_errors_in_a_session_have_the_shape_of_their_format(served):
    wrong = await served.post("/sessions/s/v1/messages", json={"model": "p"})
    assert (wrong.status_code, wrong.json()["type"]) == (400, "error")
    wrong = await served.post("/sessions/s/v1/chat/completions", json={"model": "p"})
    assert wrong.json()["error"]["param"] == "messages"
    for name in ("a%20b", "x" * 201):
        path = f"/sessions/{name}/v1/chat/completions"
        wrong = await served.post(path, json={"model": "p", "messages": [TASK]})
        assert wrong.status_code == 400
        assert "session" in wrong.json()["error"]["param"]


async def test_header_over_body_over_session_over_key_over_default(served):
    async def k(headers=None, key="plain", **ours):
        headers = {"Authorization": f"Bearer {key}", "X-Session-ID": "guided"} | (headers or {})
        agent = Agent(served, headers=headers)
        return (await agent.call(pilotfish=ours)).json()["pilotfish"]["k"]

    assert await k() == 4  # lookahead_k
    assert await k(key="five") == 5
    guided = await served.put("/v1/sessions/guided", json={"k": 6})
    assert guided.json()["guide"]["k"] == 6
    assert await k(key="five") == 6
    assert await k(key="five", k=7) == 7
    assert await k({"x-pilotfish-k": "8"}, key="five", k=7) == 8
    agent = Agent(served, headers={"Authorization": "Bearer five"})
    answer = (await agent.call(pilotfish={})).json()["pilotfish"]
    assert answer["q"] is None  # the key's calls have no critic


async def test_sessions_are_listed_the_latest_called_first(served):
    for name in ("a", "b", "c"):
        await Agent(served, headers={"X-Session-ID": name}).step("x")
    await Agent(served, headers={"X-Session-ID": "a"}).step("x")
    first = (await served.get("/v1/sessions?limit=2")).json()
    assert [s["id"] for s in first["data"]] == ["a", "c"]
    assert first["data"][0]["calls"] == 2
    assert first["data"][0]["task"] == "Fix it."
    assert first["data"][0]["last_q"] == 0.4
    assert first["data"][0]["usage"] == {"prompt_tokens": 22, "completion_tokens": 18}
    then = (await served.get(f"/v1/sessions?limit=2&after={first['next']}")).json()
    assert [s["id"] for s in then["data"]] == ["b"]
    assert then["next"] is None


async def test_what_is_not_there_is_404_and_what_is_deleted_is_not_there(served):
    for call in (
        served.get("/v1/sessions/nobody"),
        served.get("/v1/sessions/nobody/trajectory"),
        served.delete("/v1/sessions/nobody"),
        served.get("/v1/sessions?after=nobody"),
        served.post("/v1/selections", json={"sessions": ["nobody"]}),
    ):
        answer = await call
        assert answer.status_code == 404
        assert "nobody" in answer.json()["error"]["message"]
    await Agent(served, headers={"X-Session-ID": "gone"}).step("x")
    assert (await served.delete("/v1/sessions/gone")).status_code == 204
    assert (await served.get("/v1/sessions/gone")).status_code == 404


async def test_the_best_of_several_sessions_is_selected(served):
    for name, said in (("short", "a"), ("long", "aaaaaaa"), ("middle", "aaa")):
        served.up.messages = [{"content": said}]
        await Agent(served, headers={"X-Session-ID": name}).step("x")
    body = {"sessions": ["short", "long", "middle"]}
    answer = (await served.post("/v1/selections", json=body)).json()
    assert (answer["chosen"], answer["ranking"]) == (1, [1, 2, 0])
    assert answer["q"] == [0.1, 0.7, 0.3]
    both = body | {"trajectories": [await trajectory(served, "short")]}
    assert (await served.post("/v1/selections", json=both)).status_code == 400
    assert (await served.post("/v1/selections", json={})).status_code == 400


async def test_without_redis_calls_are_answered_all_the_same(served, monkeypatch):
    from redis.exceptions import ConnectionError as Away

    async def away(*arguments, **options):
        raise Away("gone")

    monkeypatch.setattr(served.context.sessions.state, "_scripted", away)
    agent = Agent(served)
    assert (await agent.call()).json()["choices"][0]["message"]["content"] == "aaaa"


MESSAGES = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["user", "assistant"]),
        content=st.text(max_size=5),
    ),
    min_size=1,
    max_size=6,
)


@given(one=MESSAGES, other=MESSAGES)
def test_a_digest_is_of_the_whole_history(one, other):
    same = [(m.role, m.text.strip()) for m in one] == [(m.role, m.text.strip()) for m in other]
    assert (chain(one)[-1] == chain(other)[-1]) == same
    assert chain([*one, *other])[: len(one)] == chain(one)


def test_a_tree_whose_root_was_dropped_gives_what_there_is():
    decision = {
        "candidates": [{"index": 0, "message": {"role": "assistant", "content": "x"}}],
        "requested": 1, "chosen": 0, "reason": "only",
    }  # fmt: skip
    call = {"at": 1.0, "model": "p", "critic": None, "decision": decision,
            "messages": [{"role": "user", "content": "o"}]}  # fmt: skip
    kept = trajectory_of(
        "s", [call | {"base": "gone", "end": "2"}, call | {"base": "2", "end": "3"}]
    )
    assert len(kept.steps) == 2
    assert json.loads(kept.model_dump_json())["id"] == "s"
    assert trajectory_of("s", []).steps == []


async def test_what_is_kept_has_a_lifetime(served):
    await Agent(served, headers={"X-Session-ID": "brief"}).step("x")
    redis = served.context.state.redis
    for key in await redis.keys("*"):
        assert await redis.ttl(key) > 0, key
    assert isinstance(served.context.sessions, Sessions)
    assert isinstance(served.context.sessions.state, RedisSessions)
