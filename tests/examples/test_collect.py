"""Collecting rollouts: what the infrastructure lost is not counted as the policy's."""

from types import SimpleNamespace

import pytest

from critic.trajectory import read_trajectories
from examples.bugfix.collect import MOST_LOST, collect, strategy
from pilotfish import Task
from search.errors import SearchError
from tests.tiny import trajectory

TASKS = [Task(id=f"t{i}", statement="fix it", image="host") for i in range(2 * MOST_LOST)]


class Service:
    """Runs end as ``ends`` says, by task: with a reward, or lost to the infrastructure."""

    def __init__(self, ends):
        self.ends = ends

    async def run(self, task, strategy, **options):
        return SimpleNamespace(id=task.id)

    async def trajectories(self, run_id):
        made = trajectory(run_id, ["submit"], reward=1.0)
        if self.ends(run_id):
            return [made]
        gone = {"exit_status": "PolicyError", "exit_message": "no server", "reward": None}
        return [made.model_copy(update=gone)]


async def test_a_lost_run_is_made_again_when_the_file_is_taken_up(tmp_path):
    out = tmp_path / "runs.jsonl"
    statuses = await collect(Service(lambda task: task != "t3"), TASKS, strategy(), out)
    assert statuses.total() == len(TASKS) - 1
    assert "t3" not in {t.task_id for t in read_trajectories(out)}
    statuses = await collect(Service(lambda task: True), TASKS, strategy(), out)
    assert statuses.total() == 1
    assert {t.task_id for t in read_trajectories(out)} == {task.id for task in TASKS}


async def test_it_stops_when_run_after_run_is_lost(tmp_path):
    with pytest.raises(SearchError, match=f"{MOST_LOST} runs in a row were lost.*no server"):
        await collect(Service(lambda task: False), TASKS, strategy(), tmp_path / "runs.jsonl")
