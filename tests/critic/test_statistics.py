"""Statistics against brute force and known values."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.reporting import percent
from critic.statistics import (
    best_interval,
    best_of,
    bootstrap,
    difference,
    gap_recovered,
    pass_at,
    success,
)

outcome_rows = st.lists(st.lists(st.integers(0, 1), min_size=5, max_size=5), min_size=1, max_size=4)


@given(outcome_rows, st.integers(1, 5))
def test_pass_at_n_equals_the_mean_over_all_draws(rows, n):
    draws = [[max(row[i] for i in c) for c in combinations(range(5), n)] for row in rows]
    assert pass_at(rows, n) == pytest.approx(np.mean([np.mean(d) for d in draws]))


@given(outcome_rows, st.permutations(range(5)), st.integers(1, 5))
def test_best_of_n_equals_the_mean_over_all_draws(rows, scores, n):
    def picked(row):
        return [row[max(c, key=lambda i: scores[i])] for c in combinations(range(5), n)]

    expected = np.mean([np.mean(picked(row)) for row in rows])
    assert best_of(rows, [scores] * len(rows), n) == pytest.approx(expected)


@given(outcome_rows, st.integers(1, 5))
def test_equal_scores_are_a_random_pick(rows, n):
    assert best_of(rows, np.zeros((len(rows), 5)), n) == pytest.approx(success(rows))


@given(outcome_rows, st.integers(1, 5))
def test_selecting_by_the_outcome_itself_is_the_oracle(rows, n):
    assert best_of(rows, rows, n) == pytest.approx(pass_at(rows, n))


def test_gap_recovered_is_zero_for_chance_and_one_for_the_oracle():
    rows = [[1, 0, 0, 0], [0, 1, 1, 0]]
    assert gap_recovered(rows, np.zeros((2, 4)), 4) == pytest.approx(0)
    assert gap_recovered(rows, rows, 4) == pytest.approx(1)
    assert np.isnan(gap_recovered([[1, 1]], [[0.1, 0.2]], 2))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for repeat in range(60):
        chance = rng.beta(1, 2, size=50)
        rows = rng.random((50, 4)) < chance[:, None]
        interval = bootstrap(success, rows.astype(float), draws=300, seed=repeat)
        covered += interval.low <= 1 / 3 <= interval.high
    assert covered >= 50


def test_attempts_are_resampled_within_tasks():
    rows = np.tile([1.0, 0.0], (2, 5))  # alike: all that varies is which attempts were drawn
    interval = bootstrap(success, rows, draws=300)
    assert interval.low < 0.4
    assert interval.high > 0.6
    still = bootstrap(success, rows, draws=300, drawn="tasks")
    assert (still.low, still.high) == (0.5, 0.5)


@pytest.mark.parametrize("n", [1, 3])
def test_the_interval_of_the_best_of_n_is_that_of_the_bootstrap(n):
    rng = np.random.default_rng(3)
    outcomes = (rng.random((30, 6)) < rng.random((30, 1))).astype(float)
    scores, alone = rng.random((30, 6)), rng.integers(0, 2, (30, 6)).astype(float)
    slow = bootstrap(
        lambda o, s, a: best_of(o, s, n) / success(a), outcomes, scores, alone,
        draws=200, drawn="attempts" if n == 1 else "tasks",
    )  # fmt: skip
    fast = best_interval(outcomes, scores, n, relative_to=alone, draws=200)
    assert fast.model_dump() == pytest.approx(slow.model_dump())
    value = best_interval(outcomes, scores, n, draws=200)
    assert value.value == pytest.approx(best_of(outcomes, scores, n))
    assert value.low < value.value < value.high


def test_pairing_makes_the_interval_of_a_difference_narrower():
    rng = np.random.default_rng(2)
    hard = rng.random((80, 1))
    worse = (rng.random((80, 6)) < hard).astype(float)
    better = np.maximum(worse, rng.random((80, 6)) < 0.1)
    paired = difference(better, worse, draws=500)
    shuffled = difference(better[rng.permutation(80)], worse, draws=500)
    assert paired.high - paired.low < shuffled.high - shuffled.low
    assert paired.low > 0


def test_tables_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected"):
        success([1, 0])
    with pytest.raises(ValueError, match="n is 3"):
        pass_at([[1, 0]], 3)
    with pytest.raises(ValueError, match="different numbers of tasks"):
        difference([[1.0]], [[1.0], [0.0]])
    with pytest.raises(ValueError, match="differ in shape"):
        best_of([[1, 0]], [[1.0]], 1)


def test_one_task_has_no_interval():
    alone = bootstrap(success, [[1, 0, 1]], draws=20)
    assert alone.value == pytest.approx(2 / 3)
    assert np.isnan([alone.low, alone.high]).all()
    assert alone.between("{:.1f}".format) == "no interval"
    assert percent(alone) == "66.7 (no interval)"
    assert difference([[1], [1]], [[0], [0]], draws=20).between("{:.1f}".format) == "1.0 to 1.0"


def test_a_column_that_all_tasks_share_is_drawn_for_all_at_once():
    alike = np.tile([1.0, 0.0], (40, 1))  # one seed solves everything, the other nothing
    by_attempt = bootstrap(success, alike, draws=300)
    by_seed = bootstrap(success, alike, draws=300, drawn="seeds")
    assert by_attempt.high - by_attempt.low < 0.4
    assert (by_seed.low, by_seed.value, by_seed.high) == (0.0, 0.5, 1.0)
