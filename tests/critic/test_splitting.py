"""A task is on one side, whatever other tasks there are."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from critic.splitting import fold_of, is_held_out, some_tasks


@dataclass(frozen=True)
class Row:
    task_id: str


ROWS = [Row(f"t{i % 500}") for i in range(1000)]


@given(st.text(max_size=20), st.integers(0, 5), st.integers(1, 9))
def test_a_fold_is_one_of_so_many(task, seed, folds):
    assert 0 <= fold_of(task, folds, seed=seed) < folds
    assert is_held_out(task, 0, seed=seed) is False


def test_shares_are_of_tasks_and_a_smaller_one_is_within_a_larger():
    quarter, half = (set(some_tasks(ROWS, share)) for share in (0.25, 0.5))
    assert quarter < half
    assert 0.2 < len(quarter) / 500 < 0.3
    assert len(list(some_tasks(ROWS, 1.0))) == 1000


def test_a_share_of_a_share_multiplies():
    half = list(some_tasks(ROWS, 0.5))
    quarter = set(some_tasks(half, 0.5, salt="again"))
    assert 0.2 < len(quarter) / 500 < 0.3


def test_what_is_held_out_does_not_decide_which_share_a_task_is_in():
    held = {row for row in ROWS if is_held_out(row.task_id, 0.5)}
    share = set(some_tasks(ROWS, 0.5))
    assert 0.35 < len(held & share) / len(share) < 0.65
