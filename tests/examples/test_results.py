"""From files of trajectories to the tables of an experiment."""

import numpy as np
import pytest

from critic.trajectory import write_trajectories
from examples.bugfix.experiment import Plan, report
from examples.bugfix.results import last_qs, q_by_progress, results
from tests.tiny import trajectory


def attempt(task, slot, *, reward=0.0, q=0.5, number=0, status="Submitted"):
    made = trajectory(task, ["a", "submit"], reward=reward)
    for step in made.steps:
        step.decision.winner.q = q
    return made.model_copy(update={"slot": slot, "attempt": number, "exit_status": status})


@pytest.fixture
def file(tmp_path):
    rows = [
        attempt("t1", 0, status="StepLimitExceeded", q=0.9),
        attempt("t1", 0, number=1, reward=1.0, q=0.8),
        attempt("t1", 1, status="SandboxLost"),
        attempt("t1", 1, reward=0.0, q=0.3),
        attempt("t2", 1, reward=1.0, q=0.7),
        attempt("t2", 0, reward=0.0, q=0.6),
    ]
    file = tmp_path / "a.jsonl"
    write_trajectories(file, rows)
    return file


def test_the_default_regime_counts_the_first_attempt_of_a_slot(file):
    found = results([file], "default")
    assert found.tasks == ["t1", "t2"]
    assert found.outcomes.tolist() == [[0, 0], [0, 1]]
    assert found.extra_attempts == 0
    assert found.submitted == 0.75


def test_until_submitted_counts_the_last_and_how_many_it_took(file):
    found = results([file], "until-submitted")
    assert found.outcomes.tolist() == [[1, 0], [0, 1]]
    assert found.extra_attempts == 0.25
    assert found.submitted == 1


def test_what_the_infrastructure_lost_is_not_counted(file):
    assert results([file], "default").outcomes.shape == (2, 2)


def test_a_trajectory_that_did_not_submit_ranks_behind_all_that_did(file):
    scores = results([file], "default").scores
    assert scores[0, 0] < scores[0, 1]
    assert scores[1].tolist() == [1.6, 1.7]


def test_seeds_stand_side_by_side(file):
    assert results([file, file], "default").outcomes.shape == (2, 4)
    assert results([file], "default", slots=1).outcomes.shape == (2, 1)


def test_unequal_tasks_are_refused(file):
    write_trajectories(file, [attempt("t3", 0)])
    with pytest.raises(ValueError, match="different numbers"):
        results([file], "default")


def test_q_by_progress_and_last_q(file):
    progress = q_by_progress([file], bins=2)
    assert progress["solved"] == pytest.approx([0.75, 0.75])
    q, won = last_qs([file])
    assert len(q) == 4  # submitted ones only
    assert sum(won) == 2


def test_the_report_is_written_from_the_files_alone(tmp_path):
    plan = Plan(tmp_path, seeds=2, attempts=10, tasks=6, other_k=(2,), other_attempts=1)
    rng = np.random.default_rng(0)
    for k in (1, 4, 2):
        for seed in range(2 if k != 2 else 1):
            rows = []
            for task in range(6):
                for slot in range(10 if k != 2 else 1):
                    won = float(rng.random() < (0.3 if k == 1 else 0.5))
                    q = 0.5 * won + 0.5 * rng.random()
                    rows.append(attempt(f"t{task}", slot, reward=won, q=q))
            write_trajectories(plan.file(k, seed), rows)
    write_trajectories(plan.vote, [attempt(f"t{i}", 0, reward=float(i % 2)) for i in range(6)])
    text = report(plan, tmp_path / "docs")
    assert "| both, N=10 |" in text
    assert text.count("\n| policy alone |") == 5
    assert "\n| 10 | " in text
    assert "| 4, majority vote instead of the critic | 50.0 |" in text
    images = {file.name for file in (tmp_path / "docs" / "images").iterdir()}
    assert images == {
        f"{name}.png"
        for name in ("operators", "success_by_n", "success_by_k", "q_by_step", "calibration")
    }
