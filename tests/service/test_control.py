"""Pausing, resuming, trying again and making once, over HTTP and real Redis; and what a worker that
stops, or is silent, leaves to others."""

import asyncio
import time

import httpx
import pytest

from pilotfish import AsyncPilotfish, Lookahead, Selection, Strategy
from pilotfish.errors import ApiStatusError
from pilotfish.strategy import BudgetLimits, RolloutSettings
from search.errors import PolicyError
from search.fakes import FakePolicy, FakeSandboxes
from service.app import create_app
from service.settings import FakePolicySettings, FakeSandboxSettings, Settings
from tests.service.test_runs import TASK, TURNS
from tests.upstream import serving

ONE = Strategy(lookahead=Lookahead(k=1), rollout=RolloutSettings(patience=0), replacement_pause=0)


class Doors(FakePolicy):
    """Waits in its second turn until the door is opened."""

    def __init__(self):
        super().__init__(TURNS, name="p")
        self.waiting, self.open = asyncio.Event(), asyncio.Event()

    async def sample(self, state, n, sampling, *, session=None):
        if len(state) > 2:
            self.waiting.set()
            await self.open.wait()
        async for sample in super().sample(state, n, sampling):
            yield sample


class World:
    """What all processes of a test share: Redis, sandboxes, a policy with a door."""

    def __init__(self, redis_url):
        self.policy, self.sandboxes = Doors(), FakeSandboxes(lambda command: f"ran {command}\n")
        self.redis_url = redis_url

    def process(self, **settings):
        app = create_app(
            Settings(
                policies={"p": FakePolicySettings(type="fake", says=["x"])},
                sandboxes={"fake": FakeSandboxSettings(type="fake")},
                redis_url=self.redis_url,
                **{"lease": 1.5} | settings,
            )
        )
        return app

    def equip(self, app):
        parts = app.state.context.parts
        parts.policies["p"], parts.sandboxes["fake"] = self.policy, self.sandboxes


@pytest.fixture
def world(redis_url):
    return World(redis_url)


@pytest.fixture
async def client(world):
    app = world.process()
    async with serving(app) as url, AsyncPilotfish(url, max_retries=0) as client:
        world.equip(app)
        client.app = app
        yield client


async def until(client, run_id, status):
    async with asyncio.timeout(20):
        while (run := await client.get_run(run_id)).status != status:
            await asyncio.sleep(0.02)
    return run


async def test_a_paused_run_keeps_its_sandbox_and_goes_on_where_it_was(client, world):
    run = await client.create_run(TASK, ONE)
    await asyncio.wait_for(world.policy.waiting.wait(), 10)
    assert (await client.pause_run(run.id)).status == "pausing"
    await until(client, run.id, "paused")
    assert (await client.pause_run(run.id)).status == "paused"
    [sandbox] = world.sandboxes.all.values()
    assert not sandbox.closed
    world.policy.open.set()
    await client.resume_run(run.id)
    ended = await asyncio.wait_for(client.wait(run.id), 20)
    assert [t.exit_status for t in ended.trajectories] == ["Submitted"]
    assert list(world.sandboxes.all.values()) == [sandbox]
    assert (sandbox.closed, sandbox.ran.count("ls")) == (True, 1)
    kinds = [entry["kind"] for entry in await client.app.state.context.state.entries(run.id)]
    assert kinds.count("decided") == 2
    assert [k for k in kinds if k in ("paused", "resumed")] == ["paused", "resumed"]


async def test_a_run_that_waits_is_paused_at_once_and_cancelled_from_there(world):
    app = world.process(worker=False)
    async with serving(app) as url, AsyncPilotfish(url) as client:
        run = await client.create_run(TASK, ONE)
        assert (await client.pause_run(run.id)).status == "paused"
        assert (await client.cancel_run(run.id)).status == "cancelled"
        assert (await client.wait(run.id)).status == "cancelled"


@pytest.mark.parametrize("what", ["pause", "resume", "retry"])
async def test_of_a_run_that_succeeded_nothing_can_be_asked(client, world, what):
    world.policy.open.set()
    run = await client.run(TASK, ONE)
    with pytest.raises(ApiStatusError, match=f"is succeeded: no use to {what} it") as caught:
        await getattr(client, f"{what}_run")(run.id)
    assert (caught.value.status, caught.value.code) == (409, "run_not_so")


async def test_a_failed_run_is_tried_again_for_what_the_infrastructure_failed(client, world):
    class Dying(FakePolicy):
        async def sample(self, state, n, sampling, *, session=None):
            if session != self.lucky and len(state) > 2:
                raise PolicyError("the endpoint went away")
            async for sample in super().sample(state, n, sampling):
                yield sample

    world.policy = Dying(TURNS, name="p")
    world.policy.lucky = None
    world.equip(client.app)
    failed = await client.run(TASK, ONE)
    assert failed.status == "failed"
    assert [t.exit_status for t in failed.trajectories] == ["PolicyError"] * 3
    world.policy = Doors()
    world.policy.open.set()
    world.equip(client.app)
    assert (await client.retry_run(failed.id)).status in ("queued", "running")
    ended = await asyncio.wait_for(client.wait(failed.id), 20)
    assert ended.status == "succeeded"
    assert [t.exit_status for t in ended.trajectories] == ["PolicyError"] * 3 + ["Submitted"]
    assert ended.selected == 3
    assert ended.error is None


async def test_a_cancelled_run_is_tried_again(client, world):
    run = await client.create_run(TASK, ONE)
    await asyncio.wait_for(world.policy.waiting.wait(), 10)
    await client.cancel_run(run.id)
    await until(client, run.id, "cancelled")
    world.policy.open.set()
    await client.retry_run(run.id)
    ended = await until(client, run.id, "succeeded")
    assert [t.exit_status for t in ended.trajectories] == ["SandboxLost", "Submitted"]


async def test_the_same_idempotency_key_makes_one_run(client, world):
    world.policy.open.set()
    async with httpx.AsyncClient(base_url=client.url) as http:
        body, headers = {"task": TASK.model_dump()}, {"Idempotency-Key": "batch-7/t1"}
        answers = await asyncio.gather(
            *(http.post("/v1/runs", json=body, headers=headers) for _ in range(5))
        )
        assert len({answer.json()["id"] for answer in answers}) == 1
        other = await http.post("/v1/runs", json=body | {"tags": {"a": "b"}}, headers=headers)
        assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
        for wrong in ("", "x" * 201):
            answer = await http.post("/v1/runs", json=body, headers={"Idempotency-Key": wrong})
            assert answer.status_code == 400
    await client.wait(answers[0].json()["id"])


async def test_a_worker_that_stops_gives_its_runs_back_at_once(world):
    app = world.process(lease=3600)
    async with serving(app) as url, AsyncPilotfish(url) as client:
        world.equip(app)
        run = await client.create_run(TASK, ONE)
        await asyncio.wait_for(world.policy.waiting.wait(), 10)
    world.policy.open.set()
    app = world.process(lease=3600)
    async with serving(app) as url, AsyncPilotfish(url) as client:
        world.equip(app)
        ended = await asyncio.wait_for(client.wait(run.id), 20)
    assert [t.exit_status for t in ended.trajectories] == ["Submitted"]
    [sandbox] = world.sandboxes.all.values()
    assert sandbox.ran == ["ls", "test"]


async def test_a_worker_that_was_silent_for_too_long_writes_nothing_and_closes_nothing(world):
    """It is stopped for longer than its lease, as a machine that sleeps; another takes over."""
    app = world.process()
    async with serving(app) as url, AsyncPilotfish(url) as client:
        world.equip(app)
        run = await client.create_run(TASK, ONE)
        await asyncio.wait_for(world.policy.waiting.wait(), 10)
        state, worker = app.state.context.state, app.state.context.worker
        renew, worker._state.renew = worker._state.renew, _nothing
        while not (found := await state.claim("other", lease=600, most=1)):
            await asyncio.sleep(0.05)
        assert found[0].id == run.id
        before = await state.entries(run.id)
        world.policy.open.set()
        async with asyncio.timeout(10):
            while worker._held:
                await asyncio.sleep(0.02)
        assert await state.entries(run.id) == before
        [sandbox] = world.sandboxes.all.values()
        assert not sandbox.closed
        worker._state.renew = renew
        await state.give_back(run.id, found[0].epoch)
        ended = await asyncio.wait_for(client.wait(run.id), 20)
    assert [t.exit_status for t in ended.trajectories] == ["Submitted"]
    assert (sandbox.ran, sandbox.closed) == (["ls", "test"], True)


async def _nothing(held, *, lease):
    return ["running"] * len(held)


async def test_a_run_that_kills_every_worker_is_taken_for_the_cause(world):
    app = world.process(worker=False)
    async with serving(app) as url, AsyncPilotfish(url) as client:
        run = await client.create_run(TASK, ONE)
        state, killed = app.state.context.state, 0
        while killed < 20:
            killed += len(await state.claim("killed", lease=0.01, most=1))
            await asyncio.sleep(0.005)
    app = world.process()
    async with serving(app) as url, AsyncPilotfish(url) as client:
        world.equip(app)
        ended = await asyncio.wait_for(client.wait(run.id), 20)
    assert ended.status == "failed"
    assert ended.error == "20 workers were lost at the same entry of this run"


async def test_sandboxes_whose_run_is_over_are_reaped_and_no_others(world):
    app = world.process(reconcile=0.05)
    labels = {"run": "gone"}
    async with serving(app) as url, AsyncPilotfish(url) as client:
        world.equip(app)
        owner = await app.state.context.state.owner()
        run = await client.create_run(TASK, ONE)
        await asyncio.wait_for(world.policy.waiting.wait(), 10)
        [live] = world.sandboxes.all.values()
        assert (live.labels["run"], live.labels["owner"]) == (run.id, owner)
        left = []
        for name in (owner, "another Redis"):
            async with world.sandboxes.start(TASK, labels=labels | {"owner": name}) as sandbox:
                await sandbox.release()
                left.append(sandbox)
        async with asyncio.timeout(10):
            while not left[0].closed:
                await asyncio.sleep(0.02)
        assert (live.closed, left[1].closed) == (False, False)
        world.policy.open.set()
        await client.wait(run.id)


async def test_no_more_sandboxes_run_than_there_is_room_for(world):
    app = world.process(admission={"fake": {"running": 2}})
    strategy = ONE.model_copy(update={"selection": Selection(n=5, concurrency=5)})
    async with serving(app) as url, AsyncPilotfish(url) as client:
        world.equip(app)
        run = await client.create_run(TASK, strategy)
        await asyncio.wait_for(world.policy.waiting.wait(), 10)
        async with asyncio.timeout(10):
            while len(world.sandboxes.all) < 2:
                await asyncio.sleep(0.02)
        most = 0
        world.policy.open.set()
        while (await client.get_run(run.id)).status == "running":
            most = max(most, sum(not s.closed for s in world.sandboxes.all.values()))
            await asyncio.sleep(0.005)
        ended = await client.wait(run.id)
        assert [t.exit_status for t in ended.trajectories] == ["Submitted"] * 5
        assert most == 2
        redis = app.state.context.state.redis
        assert await redis.zcard("pilotfish:places:fake:running") == 0


async def test_a_sandbox_that_never_fits_is_told(world):
    app = world.process(admission={"fake": {"memory": 2**30}})
    async with serving(app) as url, AsyncPilotfish(url) as client:
        world.equip(app)
        run = await client.run(TASK.model_copy(update={"memory": 2**31}), ONE)
    assert run.status == "failed"
    assert "fits fake never" in run.error


async def test_a_clock_that_jumps_costs_nothing(client, world, monkeypatch):
    """The worker's by a day, forth and back; Redis's so that every lease is over."""
    strategy = ONE.model_copy(update={"budget": BudgetLimits(seconds=60)})
    run = await client.create_run(TASK, strategy)
    await asyncio.wait_for(world.policy.waiting.wait(), 10)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400)
    state = client.app.state.context.state
    await state.redis.zadd("pilotfish:leases", {run.id: 1.0})
    world.policy.open.set()
    ended = await until(client, run.id, "succeeded")
    monkeypatch.setattr(time, "time", lambda: real() - 86_400)
    assert [t.exit_status for t in ended.trajectories] == ["Submitted"]
    [sandbox] = world.sandboxes.all.values()
    assert sandbox.ran == ["ls", "test"]
    again = await client.run(TASK, strategy)
    assert [t.exit_status for t in again.trajectories] == ["Submitted"]
    assert (await client.trajectory(again.id, 0)).seconds < 60
