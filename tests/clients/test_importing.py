"""Finished runs become training data straight from the service."""

from __future__ import annotations

import asyncio

import pytest

from critic.importing.importer import import_trajectories
from critic.trajectory import read_trajectories
from pilotfish import AsyncPilotfish, Lookahead, Selection, Strategy
from pilotfish.errors import ConnectionFailed
from tests.clients.conftest import TASK

TWO = Strategy(lookahead=Lookahead(k=2), selection=Selection(n=2))


def imported(source, folder):
    """In a thread: the importer is synchronous, and the service is in this one."""
    out, rejects = folder / "out.jsonl", folder / "rejects.jsonl"
    return asyncio.to_thread(
        import_trajectories, [source], out, rejects=rejects, keep_unrewarded=True
    )


async def test_every_trajectory_of_every_finished_run_with_its_decisions(
    service, tmp_path, monkeypatch
):
    url, _ = service
    monkeypatch.setenv("PILOTFISH_KEY", "k1")
    async with AsyncPilotfish(url, "k1") as client:
        runs = [await client.run(TASK, TWO) for _ in range(2)]
        made = [t for run in runs for t in await client.trajectories(run.id)]
    counts = await imported(url, tmp_path)
    assert counts.rows == counts.kept >= 4  # other tests have left runs in this Redis
    kept = {t.id: t for t in read_trajectories(tmp_path / "out.jsonl")}
    assert [kept[t.id] for t in made] == made
    assert len(kept[made[0].id].steps[0].decision.candidates) == 2


async def test_a_service_that_is_not_there_leaves_no_file(tmp_path):
    with pytest.raises(ConnectionFailed, match="Is the service up"):
        await imported("http://127.0.0.1:9", tmp_path)
    assert not (tmp_path / "out.jsonl").exists()
