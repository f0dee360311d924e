"""The gateway's benchmark runs where it needs no vLLM and nobody else's package, and says what it
found. How fast anything is, is not asserted."""

import pytest

from benchmarks import served
from benchmarks.many_sessions import Looks, many_sessions
from benchmarks.passing_on import WAYS, Comparison, bodies_of
from benchmarks.steps_of_peers import compared, history


async def test_a_step_of_ours_and_of_the_pattern_one_by_one():
    found = await compared(2, [0.05, 0.1], 0.05, steps=2, others=False)
    rows = {row["peer"]: row for row in found["peers"]}
    assert len(rows) == 3
    for row in rows.values():
        assert row["ratio"]["median"] >= 1
        assert all(row["survives"].values())
    assert "answered" in rows["Pilotfish, K requests"]["one sample fails"]


async def test_passing_on_is_compared_in_every_way():
    async with (
        served.timed_models([0.01], 0.01) as models,
        served.service(served.over_timed_models(models)) as service,
    ):
        comparison = Comparison(models, service.url, bodies_of([history(1)], 4))
        for way in WAYS:
            found = await comparison.throughput(way, concurrent=2, rounds=1)
            assert found["ratio"]["median"] > 0
            assert (await comparison.latency(way, rounds=1))["direct_ms"] > 0
        await comparison.close()


async def test_many_sessions_are_counted_and_the_process_is_looked_at():
    found = await many_sessions(5, 6, slowest=0.5, scoring=0.05, every=0.25)
    assert found["requests"] > 20
    assert found["failed"] == {}
    assert found["memory_MB"]["last"] > 10
    assert found["cpu_ms_a_request"]["all"] > 0


def test_cpu_is_of_the_time_that_is_asked_for():
    looks = Looks(at=[10, 11, 12, 13], cpu=[0, 1, 3, 6], rss=[], answered=[0, 10, 20, 30])
    assert looks.cpu_ms_a_request(0, 3) == pytest.approx(200)
    assert looks.cpu_ms_a_request(1, 2) == pytest.approx(200)
    assert looks.cpu_ms_a_request(2.5, 3) is None
