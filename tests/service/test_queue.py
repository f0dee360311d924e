"""How runs are handed to workers: leases by Redis's clock, fencing epochs, what callers ask."""

import asyncio

import pytest

from service.redis_connection import StateError
from service.redis_state import Fenced, KeyUsed, RedisState, RunGone

LEASE = 30.0


@pytest.fixture
async def state(redis_url):
    state = RedisState(f"{redis_url}?db=5", lifetime=60)  # its runs are none that can be shown
    await state.redis.flushdb()
    yield state
    await state.close()


async def claimed(state, worker="w", *, lease=LEASE, most=9):
    return await state.claim(worker, lease=lease, most=most)


async def test_a_run_is_given_to_one_worker_oldest_first(state):
    for name in ("a", "b", "c"):
        await state.create(name, "{}", {})
    first = await claimed(state, "w1", most=2)
    assert [(c.id, c.epoch, c.status, c.lost) for c in first] == [
        ("a", 1, "running", 0), ("b", 1, "running", 0),
    ]  # fmt: skip
    assert [c.id for c in await claimed(state, "w2")] == ["c"]
    assert await claimed(state, "w3") == []


async def test_claims_made_at_once_give_each_run_once(state):
    names = [f"r{i}" for i in range(40)]
    for name in names:
        await state.create(name, "{}", {})
    found = await asyncio.gather(*(claimed(state, f"w{i}", most=3) for i in range(20)))
    assert sorted(c.id for some in found for c in some) == sorted(names)


async def test_a_lease_that_is_over_goes_to_another_and_the_first_is_fenced(state):
    await state.create("a", "{}", {})
    [first] = await claimed(state, "w1", lease=0.05)
    await state.append("a", first.epoch, {"kind": "decided"})
    while not (found := await claimed(state, "w2")):
        await asyncio.sleep(0.01)
    [second] = found
    assert (second.epoch, second.lost) == (2, 1)
    with pytest.raises(Fenced):
        await state.append("a", first.epoch, {"kind": "observed"})
    assert not await state.finish("a", first.epoch, "succeeded", {})
    assert not await state.give_back("a", first.epoch)
    assert await state.renew([("a", first.epoch)], lease=LEASE) == ["lost"]
    assert await state.renew([("a", second.epoch)], lease=LEASE) == ["running"]
    assert await state.finish("a", second.epoch, "succeeded", {})
    kinds = [entry["kind"] for entry in await state.entries("a")]
    assert kinds == ["decided", "run_ended"]


async def test_an_end_that_is_told_twice_does_not_end_what_was_tried_again(state):
    await state.create("a", "{}", {})
    [held] = await claimed(state)
    assert await state.finish("a", held.epoch, "failed", {"error": "x"})
    await state.ask("a", "retry")
    assert not await state.finish("a", held.epoch, "failed", {"error": "x"})
    assert await state.renew([("a", held.epoch)], lease=LEASE) == ["lost"]
    assert [c.id for c in await claimed(state)] == ["a"]


async def test_renewing_keeps_a_run(state):
    await state.create("a", "{}", {})
    [held] = await claimed(state, lease=0.3)
    for _ in range(10):
        assert await state.renew([("a", held.epoch)], lease=0.3) == ["running"]
        assert await claimed(state, "other") == []
        await asyncio.sleep(0.05)


async def test_a_run_that_loses_its_workers_at_one_entry_says_how_many(state):
    await state.create("a", "{}", {})
    await claimed(state, lease=0.01)
    for lost in (1, 2):
        while not (found := await claimed(state, lease=0.01)):
            await asyncio.sleep(0.01)
        assert found[0].lost == lost
    await state.append("a", found[0].epoch, {"kind": "decided"})
    while not (found := await claimed(state, lease=0.01)):
        await asyncio.sleep(0.01)
    assert found[0].lost == 1


async def test_a_run_that_is_given_back_waits_for_its_time(state):
    await state.create("a", "{}", {})
    [held] = await claimed(state)
    assert await state.give_back("a", held.epoch, delay=0.2)
    assert await state.status("a") == "queued"
    assert await claimed(state) == []
    with pytest.raises(Fenced):
        await state.append("a", held.epoch, {"kind": "decided"})
    while not (found := await claimed(state)):
        await asyncio.sleep(0.02)
    assert (found[0].epoch, found[0].lost) == (3, 0)


@pytest.mark.parametrize(
    ("before", "asked", "after", "queued"),
    [
        ("queued", "cancel", "cancelled", False),
        ("queued", "pause", "paused", False),
        ("queued", "resume", "queued", True),
        ("running", "cancel", "cancelling", False),
        ("running", "pause", "pausing", False),
        ("pausing", "resume", "running", False),
        ("pausing", "cancel", "cancelling", False),
        ("paused", "resume", "queued", True),
        ("paused", "cancel", "cancelled", False),
        ("paused", "retry", "paused", False),
        ("failed", "retry", "queued", True),
        ("cancelled", "retry", "queued", True),
        ("succeeded", "retry", "succeeded", False),
        ("succeeded", "cancel", "succeeded", False),
        ("cancelling", "pause", "cancelling", False),
    ],
)
async def test_what_is_asked_of_a_run_and_what_becomes_of_it(state, before, asked, after, queued):
    await state.create("a", "{}", {})
    if before != "queued":
        [held] = await claimed(state)
        if before in ("pausing", "paused"):
            await state.ask("a", "pause")
        if before == "paused":
            assert await state.park("a", held.epoch)
        if before == "cancelling":
            await state.ask("a", "cancel")
        if before in ("succeeded", "failed", "cancelled"):
            await state.finish("a", held.epoch, before, {"error": None})
    assert await state.ask("a", asked) == (before, after)
    assert await state.status("a") == after
    assert [c.id for c in await claimed(state, "next")] == (["a"] if queued else [])
    summary = await state.summary("a")
    assert (summary["ended_at"] is not None) == (after in ("cancelled", "succeeded"))


async def test_a_run_that_was_resumed_before_its_worker_heard_is_not_parked(state):
    await state.create("a", "{}", {})
    [held] = await claimed(state)
    await state.ask("a", "pause")
    await state.ask("a", "resume")
    assert not await state.park("a", held.epoch)
    assert await state.renew([("a", held.epoch)], lease=LEASE) == ["running"]


async def test_asking_of_a_run_that_is_not_there(state):
    with pytest.raises(RunGone):
        await state.ask("a", "cancel")
    assert await state.status("a") is None


async def test_the_same_key_makes_one_run_and_another_request_none(state):
    assert await state.create("a", "{}", {}, once="k") == "a"
    assert await state.create("b", "{}", {}, once="k") == "a"
    with pytest.raises(KeyUsed, match="'k' was used for another request"):
        await state.create("c", '{"x": 1}', {}, once="k")
    assert [c.id for c in await claimed(state)] == ["a"]


async def test_every_key_has_a_lifetime(state):
    await state.create("a", "{}", {}, once="k")
    await state.owner()
    [held] = await claimed(state)
    await state.append("a", held.epoch, {"kind": "decided"})
    await state.take_place("p", "one", weight=1, most=2, total=None, seconds=9)
    await state.create("b", "{}", {})
    keys = [key async for key in state.redis.scan_iter("*")]
    assert len(keys) >= 8
    assert all([await state.redis.ttl(key) > 0 for key in keys])


async def test_places_are_bounded_by_number_and_weight_and_end_with_their_time(state):
    async def take(place, *, weight=1, most=None, total=None, seconds=30.0):
        return await state.take_place(
            "p", place, weight=weight, most=most, total=total, seconds=seconds
        )

    assert await take("a", most=2)
    assert await take("b", most=2, seconds=0.05)
    assert await take("a", most=2)  # had already
    while not await take("c", most=2):
        await asyncio.sleep(0.01)
    await state.leave_place("p", "a")
    assert await take("d", weight=6, total=7)
    assert not await take("e", weight=1, total=7)
    assert await take("d", total=1, seconds=0.05)  # whatever the bounds: it is there
    while not await take("e", weight=6, total=7):
        await asyncio.sleep(0.01)


async def test_a_redis_that_is_full_or_silent_is_told_and_loses_nothing(state):
    await state.create("a", "{}", {})
    [held] = await claimed(state)
    await state.append("a", held.epoch, {"kind": "decided"})
    await state.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(StateError, match="Redis: "):
            await state.append("a", held.epoch, {"kind": "observed"})
        with pytest.raises(StateError, match="Redis: "):
            await state.create("b", "{}", {})
    finally:
        await state.redis.config_set("maxmemory", 0)
    await state.append("a", held.epoch, {"kind": "observed"})
    assert [e["kind"] for e in await state.entries("a")] == ["decided", "observed"]
