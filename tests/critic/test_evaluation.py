"""Measures of Q against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.evaluation import auc, average_precision, brier, calibration, ece, within_task

pairs = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.booleans()), min_size=2)


@given(pairs)
def test_auc_is_the_share_of_pairs_ranked_right(rows):
    wins = [q for q, won in rows if won]
    losses = [q for q, won in rows if not won]
    measured = auc([q for q, _ in rows], [won for _, won in rows])
    if not wins or not losses:
        assert np.isnan(measured)
        return
    right = [(w > x) + 0.5 * (w == x) for w in wins for x in losses]
    assert measured == pytest.approx(np.mean(right))


@given(pairs)
def test_average_precision_is_the_mean_over_successes_of_the_precision_at_their_q(rows):
    wins = [q for q, won in rows if won]
    measured = average_precision([q for q, _ in rows], [won for _, won in rows])
    if not wins:
        assert np.isnan(measured)
        return
    precisions = [np.mean([won for q, won in rows if q >= win]) for win in wins]
    assert measured == pytest.approx(np.mean(precisions))


def test_calibration_error_is_zero_when_q_is_the_rate():
    assert ece([0.25] * 4, [1, 0, 0, 0]) == pytest.approx(0)
    assert ece([1.0, 1.0], [0, 0]) == pytest.approx(1)
    assert calibration([0.05, 0.95], [0, 1]).count == [1, 1]
    assert brier([0.5], [1]) == 0.25


def test_ranking_within_tasks_ignores_how_hard_a_task_is():
    task = ["easy", "easy", "hard", "hard"]
    assert within_task(task, [0.9, 0.8, 0.2, 0.1], [1, 0, 1, 0]) == 1.0
    assert np.isnan(within_task(task, [0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0]))
