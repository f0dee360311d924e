"""Choosing one of N recorded trajectories, against its definitions."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.judged import Judged
from critic.selecting import best_of_n, chosen_by_majority, chosen_by_score


def judged(task, q, won, *, answer="", submitted=True, attempt=0, k=1):
    return Judged(
        id=f"{task}-{q}-{won}-{answer}-{attempt}-{k}",
        task_id=task,
        reward=float(won),
        submitted=submitted,
        k=k,
        attempt=attempt,
        answer=answer,
        guided=k > 1,
        qs=(q / 2, q),
    )


rows = st.lists(
    st.builds(
        judged,
        st.just("t"),
        st.floats(0, 1),
        st.booleans(),
        answer=st.sampled_from("abc"),
        submitted=st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@given(rows, st.data())
def test_the_critics_choice_is_the_mean_over_all_draws(own, data):
    n = data.draw(st.integers(1, len(own)))

    def taken(draw):
        best = max(one.score for one in draw)
        return np.mean([one.won for one in draw if one.score == best])

    # of equal ones any may be taken: compare where there are none
    if len({one.score for one in own}) == len(own):
        expected = np.mean([taken(draw) for draw in combinations(own, n)])
        assert chosen_by_score(own, n) == pytest.approx(expected)


@given(rows)
def test_the_majority_of_all_is_the_most_frequent_answer_that_was_submitted(own):
    able = [one for one in own if one.submitted] or own
    counts = {a: sum(one.answer == a for one in able) for a in "abc"}
    most = [one for one in able if counts[one.answer] == max(counts.values())]
    expected = np.mean([one.won for one in most])
    assert chosen_by_majority(own, len(own)) == pytest.approx(expected)


def test_a_critic_that_knows_is_the_oracle_and_further_attempts_do_not_count():
    table = [judged(f"t{i}", 0.5 + 0.4 * (i == j), i == j) for i in range(3) for j in range(3)]
    table.append(judged("t0", 0.1, False, attempt=1))
    one, two, three = best_of_n(table, (1, 2, 3, 4), draws=50)
    assert [row.tasks for row in (one, two, three)] == [3, 3, 3]
    assert three.critic.value == three.oracle.value == 1
    assert two.critic.value == two.oracle.value == pytest.approx(2 / 3)
    assert one.random.value == pytest.approx(1 / 3)
    assert three.gap_recovered == 1
    assert three.over_random.low > 0
    assert np.isnan(one.gap_recovered)


def test_tasks_with_fewer_trajectories_count_only_for_smaller_n():
    table = [judged("a", 0.2, True), judged("a", 0.9, False), judged("b", 0.5, True)]
    one, two = best_of_n(table, (1, 2), draws=20)
    assert (one.tasks, two.tasks) == (2, 1)
    assert two.critic.value == 0
