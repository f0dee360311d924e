"""Two workers on hosts of their own share the work, and take over each other's runs when a link is
cut."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from redis.asyncio import Redis

from pilotfish.api import FINAL_STATUSES
from tests.chaos.driver import STRATEGY, World, _check_journals, _check_left, _check_run, task
from tests.chaos.hosts import Hosts

pytestmark = pytest.mark.slow


async def test_they_share_the_work_and_take_over_from_one_that_is_cut_off(tmp_path) -> None:
    async with Hosts(2) as hosts:
        world = World(tmp_path, random.Random(0), hosts)
        world.concurrent_runs = 4
        async with world.up() as client:
            redis: Any = Redis.from_url(world.redis_url)
            made = [
                await client.create_run(task(i), STRATEGY.model_copy(update={"seed": i}))
                for i in range(8)
            ]

            async def workers() -> dict[str, str]:
                found = {}
                for run in made:
                    worker = await redis.hget(f"pilotfish:run:{run.id}", "worker")
                    found[run.id] = worker.decode() if worker else ""
                return found

            async with asyncio.timeout(30):
                while len(set((first := await workers()).values()) - {""}) < 2:
                    await asyncio.sleep(0.05)
            await hosts.cut(0)
            ended = []
            async with asyncio.timeout(120):
                for run in made:
                    while (seen := await client.get_run(run.id)).status not in FINAL_STATUSES:
                        await asyncio.sleep(0.2)
                    ended.append(seen)
            last = await workers()
            assert len(set(first.values()) - {""}) == 2  # one may not have begun by then
            assert len(set(last.values())) == 1  # all ended on the one that was left
            assert any(first[run.id] not in ("", last[run.id]) for run in made)
            await hosts.mend(0)
            wrong = []
            for run in ended:
                wrong += _check_run(run, await client.trajectories(run.id))
            wrong += await _check_journals(world, [run.id for run in made])
            wrong += await _check_left(world)
            await redis.aclose()
            assert wrong == []
