"""Runs over HTTP: queued, executed by a worker over real Redis, watched, cancelled."""

import asyncio
import json
import math

import httpx
import pytest

from pilotfish import AsyncPilotfish, Lookahead, Message, Selection, Strategy, Task
from pilotfish.errors import BadRequest, NotFound, ServerFailed
from pilotfish.strategy import RolloutSettings
from search.errors import PolicyError
from search.fakes import FakeCritic, FakePolicy, FakeSandboxes, turn_by_turn
from service.app import create_app
from service.redis_connection import StateError
from service.redis_state import RedisState
from service.settings import FakePolicySettings, FakeSandboxSettings, Settings
from tests.upstream import serving

TASK = Task(
    id="t1", statement="fix it", image="host", evaluation={"command": "test", "files": {"h": "x"}}
)
TURNS = turn_by_turn(
    ["```bash\nls\n```", "```bash\npwd\n```"], ["```bash\nsubmit\n```", "```bash\nsubmit\n```"]
)
TWO = Strategy(lookahead=Lookahead(k=2), selection=Selection(n=2))


@pytest.fixture
async def service(redis_url):
    settings = Settings(
        policies={"p": FakePolicySettings(type="fake", says=["x"])},
        sandboxes={"fake": FakeSandboxSettings(type="fake")},
        redis_url=redis_url,
        keepalive=0.05,
    )
    app = create_app(settings)
    async with serving(app) as url, AsyncPilotfish(url, max_retries=0) as client:
        parts = app.state.context.parts
        parts.policies["p"] = FakePolicy(TURNS, name="p")
        parts.critics["c"] = FakeCritic(lambda s, a: 0.9 if "pwd" in a.text else 0.4, name="c")
        parts.sandboxes["fake"] = FakeSandboxes(lambda command: f"ran {command}\n")
        yield app, client


async def test_a_run_is_queued_executed_and_shown(service):
    _, client = service
    made = await client.create_run(TASK, TWO, tags={"batch": "b1"})
    assert made.status in ("queued", "running")
    run = await client.wait(made.id)
    assert run.status == "succeeded"
    assert (run.policy, run.critic, run.task_id, run.tags) == ("p", "c", "t1", {"batch": "b1"})
    assert [t.exit_status for t in run.trajectories] == ["Submitted", "Submitted"]
    assert [t.reward for t in run.trajectories] == [1.0, 1.0]
    assert run.selected == 0
    assert run.ranking == [0, 1]
    assert run.ended_at > run.created_at
    assert run.usage.completion_tokens > 0


async def test_a_run_ends_though_redis_is_away_for_a_moment(service, monkeypatch):
    app, client = service
    state, failures = app.state.context.state, []
    finish = state.finish

    async def away(run_id, epoch, status, result):
        if len(failures) < 2:
            failures.append(status)
            raise StateError("Redis: connection refused")
        return await finish(run_id, epoch, status, result)

    monkeypatch.setattr(state, "finish", away)
    run = await client.run(TASK, TWO)
    assert run.status == "succeeded"
    assert failures == ["succeeded", "succeeded"]


async def test_a_trajectory_is_downloaded_whole(service):
    _, client = service
    run = await client.run(TASK, TWO)
    trajectory = await client.trajectory(run.id, 1)
    assert trajectory.steps[0].decision.message.text == "```bash\npwd\n```"
    assert [c.q for c in trajectory.steps[0].decision.candidates] == [0.4, 0.9]
    assert trajectory.steps[0].observation.output == "ran pwd\n"
    assert await client.trajectories(run.id) == [await client.trajectory(run.id, 0), trajectory]
    with pytest.raises(NotFound, match="has 2 trajectories"):
        await client.trajectory(run.id, 2)


async def test_events_come_in_order_and_are_taken_up_behind_the_last(service):
    _, client = service
    run = await client.create_run(TASK, Strategy(lookahead=Lookahead(k=1)))
    events = [event async for event in client.events(run.id)]
    assert [e.kind for e in events] == [
        "trajectory_started", "sandbox_started", "decided", "observed", "decided",
        "trajectory_ended", "selected", "run_ended",
    ]  # fmt: skip
    rest = [event.id async for event in client.events(run.id, after=events[3].id)]
    assert rest == [e.id for e in events[4:]]


async def test_the_event_stream_is_server_sent_events(service):
    _app, client = service
    run = await client.run(TASK, TWO)
    async with httpx.AsyncClient(base_url=client.url) as http:
        path = f"/v1/runs/{run.id}/events"
        answer = await http.get(path)
        assert answer.headers["content-type"].startswith("text/event-stream")
        blocks = [b.split("\n") for b in answer.text.strip().split("\n\n")]
        last = blocks[-1]
        assert last[1] == "event: run_ended"
        assert json.loads(last[2].removeprefix("data: "))["status"] == "succeeded"
        for wrong in (b"soon", b"1-", b"\xb2", b"9" * 30):
            bad = await http.get(path, headers=[(b"last-event-id", wrong)])
            assert bad.status_code == 400


async def test_a_run_is_cancelled_and_keeps_what_was_done(service):
    app, client = service
    parts = app.state.context.parts
    waiting = asyncio.Event()

    class Stuck(FakePolicy):
        async def sample(self, state, n, sampling, *, session=None):
            if len(state) > 2:
                waiting.set()
                await asyncio.Event().wait()
            async for sample in super().sample(state, n, sampling):
                yield sample

    parts.policies["p"] = Stuck(TURNS, name="p")
    run = await client.create_run(TASK, Strategy(lookahead=Lookahead(k=1)))
    await asyncio.wait_for(waiting.wait(), 10)
    assert (await client.cancel_run(run.id)).status in ("cancelling", "cancelled")
    ended = await asyncio.wait_for(client.wait(run.id), 10)
    assert ended.status == "cancelled"
    [trajectory] = await client.trajectories(run.id)
    assert trajectory.exit_status == "Cancelled"
    assert len(trajectory.steps) == 1
    [sandbox] = parts.sandboxes["fake"].all.values()
    assert sandbox.closed
    assert (await client.cancel_run(run.id)).status == "cancelled"


async def test_runs_are_listed_newest_first_by_pages(service):
    _app, client = service
    made = [(await client.create_run(TASK, TWO)).id for _ in range(3)]
    listed = [run.id async for run in client.list_runs()]
    assert listed[:3] == made[::-1]
    async with httpx.AsyncClient(base_url=client.url) as http:
        page = (await http.get("/v1/runs", params={"limit": 2})).json()
        assert [run["id"] for run in page["data"]] == made[:0:-1]
        rest = (await http.get("/v1/runs", params={"limit": 2, "after": page["next"]})).json()
        assert rest["data"][0]["id"] == made[0]
    for run_id in made:
        await client.wait(run_id)


@pytest.fixture
async def abandoned(redis_url):
    """A running run whose worker is gone, settings of a process that can take it up, and the
    sandboxes that it finds again."""
    sandboxes = FakeSandboxes(lambda command: "")

    def settings(**changes):
        return Settings(
            policies={"p": FakePolicySettings(type="fake", says=["x"])},
            sandboxes={"fake": FakeSandboxSettings(type="fake")},
            redis_url=redis_url,
            lease=1.5,
            **changes,
        )

    reached = asyncio.Event()

    class Stuck(FakePolicy):
        async def sample(self, state, n, sampling, *, session=None):
            reached.set()
            await asyncio.Event().wait()
            yield

    app = create_app(settings())
    async with serving(app) as url, AsyncPilotfish(url) as client:
        app.state.context.parts.policies["p"] = Stuck(TURNS, name="p")
        app.state.context.parts.sandboxes["fake"] = sandboxes
        run = await client.create_run(TASK, Strategy(lookahead=Lookahead(k=1)))
        await asyncio.wait_for(reached.wait(), 10)
    return run.id, settings, sandboxes


async def test_a_worker_that_stops_leaves_its_run_to_another(abandoned):
    run_id, settings, sandboxes = abandoned
    app = create_app(settings())
    async with serving(app) as url, AsyncPilotfish(url) as client:
        app.state.context.parts.policies["p"] = FakePolicy(TURNS, name="p")
        app.state.context.parts.sandboxes["fake"] = sandboxes
        ended = await asyncio.wait_for(client.wait(run_id), 30)
        assert ended.status == "succeeded"
        assert len([t for t in ended.trajectories if t.exit_status == "Submitted"]) == 1


async def test_a_run_whose_worker_is_gone_can_be_cancelled(abandoned):
    run_id, settings, _ = abandoned
    app = create_app(settings(worker=False))
    async with serving(app) as url, AsyncPilotfish(url) as client:
        [claimed] = await app.state.context.state.claim("killed", lease=1.5, most=9)
        assert (claimed.id, claimed.status) == (run_id, "running")
        assert (await client.cancel_run(run_id)).status == "cancelling"
    app = create_app(settings())
    async with serving(app) as url, AsyncPilotfish(url) as client:
        ended = await asyncio.wait_for(client.wait(run_id), 20)
        assert ended.status == "cancelled"
        kinds = [entry["kind"] for entry in await app.state.context.state.entries(run_id)]
        assert kinds.count("run_ended") == 1


@pytest.mark.parametrize("applied", [False, True])
async def test_nothing_is_lost_or_doubled_where_redis_is_away(service, monkeypatch, applied):
    """``applied``: the entry was appended, and only the answer was lost."""
    app, client = service
    state, failures = app.state.context.state, []
    append = state.append

    async def away(run_id, epoch, entry):
        if entry["kind"] not in failures:
            failures.append(entry["kind"])
            if applied:
                await append(run_id, epoch, entry)
            raise StateError("Redis: connection refused")
        return await append(run_id, epoch, entry)

    monkeypatch.setattr(state, "append", away)
    run = await client.run(TASK, Strategy(lookahead=Lookahead(k=2)))
    assert (run.status, [t.exit_status for t in run.trajectories]) == ("succeeded", ["Submitted"])
    kinds = [entry["kind"] for entry in await state.entries(run.id)]
    assert kinds == [
        "trajectory_started", "sandbox_started", "decided", "observed", "decided",
        "trajectory_ended", "selected", "run_ended",
    ]  # fmt: skip
    assert len(failures) == 6


async def test_a_run_begins_though_redis_was_away(service, monkeypatch):
    app, client = service
    state = app.state.context.state
    for name in ("request", "owner", "claim"):
        inner, failed = getattr(state, name), []

        async def away(*args, inner=inner, failed=failed, **options):
            if not failed:
                failed.append(args)
                raise StateError("Redis: connection refused")
            return await inner(*args, **options)

        monkeypatch.setattr(state, name, away)
    assert (await client.run(TASK, TWO)).status == "succeeded"


async def test_a_run_ends_once(service):
    app, client = service
    state = app.state.context.state
    run = await client.run(TASK, TWO)
    for epoch in range(4):
        assert not await state.finish(run.id, epoch, "cancelled", {"error": None})
    assert (await client.get_run(run.id)).status == "succeeded"
    assert [e["kind"] for e in await state.entries(run.id)].count("run_ended") == 1


async def test_a_run_that_nothing_can_be_selected_from_has_failed(service):
    app, client = service

    class Dying(FakePolicy):
        async def sample(self, state, n, sampling, *, session=None):
            if len(state) > 2:
                raise PolicyError("the endpoint went away")
            async for sample in super().sample(state, n, sampling):
                yield sample

    app.state.context.parts.policies["p"] = Dying(TURNS, name="p")
    hasty = {"rollout": RolloutSettings(patience=0), "replacement_pause": 0}
    run = await client.run(TASK, Strategy(lookahead=Lookahead(k=1), **hasty))
    assert (run.status, run.selected, run.reason) == ("failed", None, "none")
    assert {t.exit_status for t in run.trajectories} == {"PolicyError"}
    assert all(t.steps == 1 for t in run.trajectories)


async def test_decisions_within_runs_are_counted(service):
    _, client = service
    async with httpx.AsyncClient(base_url=client.url) as http:

        async def decided():
            text = (await http.get("/metrics")).text
            lines = [line for line in text.splitlines() if "decisions_total{" in line]
            return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

        before = await decided()
        await client.run(TASK, TWO)
        assert await decided() == before + 4


async def test_half_a_character_is_refused(service):
    _, client = service
    bodies = {
        "/v1/runs": {"task": TASK.model_dump(), "tags": {"x": "\ud800"}},
        "/v1/lookahead": {
            "messages": [{"role": "user", "content": "x"}],
            "candidates": [{"role": "assistant", "content": "\ud800"}],
        },
    }
    async with httpx.AsyncClient(base_url=client.url) as http:
        for path, body in bodies.items():
            headers = {"content-type": "application/json"}
            answer = await http.post(path, content=json.dumps(body), headers=headers)
            assert answer.status_code == 400, path
            assert answer.json()["error"]["code"] == "invalid_value"


@pytest.mark.parametrize("change", [{"role": "user"}, {"q": math.nan}, {"q": 7.0}])
async def test_a_trajectory_that_is_none_is_refused(service, change):
    _, client = service
    run = await client.run(TASK, TWO)
    [trajectory, _] = await client.trajectories(run.id)
    record = trajectory.model_dump(mode="json")
    candidate = record["steps"][-1]["decision"]["candidates"][0]
    candidate["message"] |= {k: v for k, v in change.items() if k == "role"}
    candidate |= {k: v for k, v in change.items() if k == "q"}
    async with httpx.AsyncClient(base_url=client.url) as http:
        body = json.dumps({"trajectories": [record], "rescore": False})
        headers = {"content-type": "application/json"}
        answer = await http.post("/v1/selections", content=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"].startswith("trajectories.0.steps")


async def test_every_key_of_ours_has_a_lifetime(service):
    app, client = service
    await client.run(TASK, TWO)
    redis = app.state.context.state.redis
    keys = [key async for key in redis.scan_iter("pilotfish:*")]
    assert keys
    assert all([await redis.ttl(key) > 0 for key in keys])


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": "nobody"}, NotFound, "model"),
        ({"critic": "nobody"}, NotFound, "critic"),
        ({"sandbox": "nobody"}, NotFound, "sandbox"),
    ],
)
async def test_what_is_not_there_is_named(service, fields, error, param):
    with pytest.raises(error) as caught:
        await service[1].create_run(TASK, **fields)
    assert caught.value.param == param
    assert "there are: " in str(caught.value)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"task": TASK.model_dump() | {"image": ""}}, "task.image"),
        ({"task": TASK.model_dump() | {"statement": ""}}, "task.statement"),
        ({"task": TASK.model_dump() | {"colour": "red"}}, "task.colour"),
        ({"strategy": {"lookahead": {"k": 0}}}, "strategy.lookahead.k"),
        ({"strategy": {"lookahead": {"k": 1000}}}, "strategy.lookahead.k"),
        ({"strategy": {"selection": {"n": 0}}}, "strategy.selection.n"),
        ({"strategy": {"mcts": {}}}, "strategy.mcts"),
        (
            {"strategy": {"lookahead": {"sampling": {"extra": {"n": 200}}}}},
            "strategy.lookahead.sampling.extra",
        ),
        ({"task": TASK.model_dump() | {"files": {"/etc/x": "y"}}}, "task.files"),
        (
            {
                "task": TASK.model_dump()
                | {"evaluation": {"command": "true", "files": {"../x": ""}}}
            },
            "task.evaluation.files",
        ),
        ({"budget": 5}, "budget"),
    ],
)
async def test_a_wrong_run_names_its_field(service, change, param):
    async with httpx.AsyncClient(base_url=service[1].url) as http:
        answer = await http.post("/v1/runs", json={"task": TASK.model_dump()} | change)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_a_run_that_is_not_there_is_404(service):
    for call in (service[1].get_run, service[1].cancel_run, service[1].trajectories):
        with pytest.raises(NotFound, match="no run 'nope'"):
            await call("nope")


async def test_a_policy_of_nonsense_ends_by_name_and_the_run_is_kept(service):
    app, client = service
    app.state.context.parts.policies["p"] = FakePolicy(turn_by_turn(["?!"]), name="p")
    run = await client.run(TASK, Strategy(lookahead=Lookahead(k=1)))
    assert run.status == "succeeded"
    assert run.trajectories[0].exit_status == "FormatError"


async def test_lookahead_score_and_selection_without_a_run(service):
    _, client = service
    state = [{"role": "user", "content": "hi"}]
    own = [{"role": "assistant", "content": t} for t in ("ls", "pwd", "ls")]
    decided = await client.lookahead(state, candidates=own)
    assert decided.message.text == "pwd"
    assert decided.decision.candidates[2].duplicate_of == 0
    assert (await client.lookahead(state, candidates=own[1:2])).decision.winner.q == 0.9
    sampled = await client.lookahead(state, Lookahead(k=2))
    assert sampled.message.text == "```bash\npwd\n```"
    assert await client.score(state, own[:2]) == [0.4, 0.9]
    assert await client.score([*state, own[1]]) == [0.9]
    run = await client.run(TASK, TWO)
    trajectories = await client.trajectories(run.id)
    chosen = await client.select(trajectories)
    assert (chosen.chosen, chosen.q) == (0, [0.4, 0.4])
    assert (await client.select(trajectories, abstain_below=0.5)).reason == "abstained"
    with pytest.raises(BadRequest):
        await client.select([trajectories[0]] * 257)


async def test_selection_reads_a_trajectory_whose_prefix_has_turns_of_its_own(service):
    _, client = service
    run = await client.run(TASK, TWO)
    trajectories = await client.trajectories(run.id)
    for trajectory in trajectories:
        trajectory.prefix += [Message.assistant("pwd"), Message.user("go on")]
    assert (await client.select(trajectories)).q == [0.4, 0.4]


async def test_selection_names_what_failed(service):
    app, client = service
    run = await client.run(TASK, TWO)
    trajectories = await client.trajectories(run.id)
    app.state.context.parts.critics["c"].down = True
    with pytest.raises(ServerFailed) as caught:
        await client.select(trajectories)
    assert caught.value.code == "critic_error"
    async with httpx.AsyncClient(base_url=client.url) as http:
        given = trajectories[0].model_dump(mode="json")
        given["steps"][0]["decision"]["chosen"] = 7
        answer = await http.post("/v1/selections", json={"trajectories": [given]})
        assert (answer.status_code, "chosen is 7" in answer.text) == (400, True)


async def test_a_process_without_a_worker_queues_runs_for_others(redis_url):
    def settings(worker):
        return Settings(
            policies={"p": FakePolicySettings(type="fake", says=["```bash\nsubmit\n```"])},
            sandboxes={"fake": FakeSandboxSettings(type="fake")},
            redis_url=redis_url,
            worker=worker,
        )

    async with serving(create_app(settings(False))) as url, AsyncPilotfish(url) as client:
        made = await client.create_run(TASK, Strategy(lookahead=Lookahead(k=1)))
        assert made.status == "queued"
        async with serving(create_app(settings(True))):
            ended = await asyncio.wait_for(client.wait(made.id), 10)
    assert ended.status == "succeeded"


async def test_where_keys_are_set_up_a_known_one_is_needed(redis_url):
    settings = Settings(
        policies={"p": FakePolicySettings(type="fake", says=["x"])},
        sandboxes={"fake": FakeSandboxSettings(type="fake")},
        redis_url=redis_url,
        worker=False,
        keys=["secret-1", "secret-2"],
    )
    async with serving(create_app(settings)) as url, httpx.AsyncClient(base_url=url) as http:
        for path in ("/v1/models", "/v1/runs", "/metrics"):
            assert (await http.get(path)).status_code == 401
            wrong = await http.get(path, headers={"Authorization": "Bearer secret"})
            assert wrong.json()["error"]["code"] == "invalid_api_key"
            known = await http.get(path, headers={"Authorization": "Bearer secret-2"})
            assert known.status_code == 200
        assert (await http.get("/health")).json() == {"status": "ok"}
        assert (await http.get("/health/readiness")).status_code == 200


async def test_operations_say_how_it_is(service):
    app, client = service
    await client.run(TASK, TWO)
    async with httpx.AsyncClient(base_url=client.url) as http:
        metrics = (await http.get("/metrics")).text
        assert 'pilotfish_trajectories_total{exit_status="Submitted"}' in metrics
        assert 'route="/v1/runs"' in metrics
        assert 'pilotfish_decisions_total{degraded="False",reason="argmax"}' in metrics
        app.state.context.parts.policies.clear()
        ready = await http.get("/health/readiness")
        assert (ready.status_code, ready.json()["missing"]) == (503, ["no policy is set up"])
        missing = await http.get("/v1/nothing")
        assert "no route GET /v1/nothing" in missing.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/score", "/v1/lookahead"])
async def test_a_candidate_that_is_no_agents_turn_is_refused(service, path):
    hi = {"role": "user", "content": "hi"}
    async with httpx.AsyncClient(base_url=service[1].url) as http:
        answer = await http.post(path, json={"messages": [hi], "candidates": [hi]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "candidates.0")


async def test_without_redis_it_says_so_and_asks_to_come_again(service):
    app, client = service
    context = app.state.context
    context.state = RedisState("redis://127.0.0.1:9/0", lifetime=60)
    async with httpx.AsyncClient(base_url=client.url) as http:
        answers = [
            await http.post("/v1/runs", json={"task": TASK.model_dump()}),
            await http.get("/v1/runs"),
            await http.get("/v1/runs/some"),
            await http.post("/v1/runs/some/cancel"),
        ]
    await context.state.close()
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "state_error")
        assert answer.json()["error"]["message"].startswith("Redis: ")
        assert answer.headers["retry-after"] == "1"
