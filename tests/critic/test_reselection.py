"""Recorded choices made again."""

import random
from dataclasses import replace

import pytest

from critic.reselection import Redecided, redecide, reselect
from tests.critic.test_selecting import judged


def test_the_change_is_that_of_what_is_taken():
    before = [judged("a", 0.9, False), judged("a", 0.1, True), judged("b", 0.5, True)]
    after = [replace(one, qs=(1 - one.last_q,)) for one in before]
    one, two = reselect(before, after, (1, 2), draws=50)
    assert one.change.value == 0
    assert (two.before.value, two.after.value, two.change.value, two.oracle) == (0, 1, 1, 1)
    assert two.tasks == 1


def test_the_same_critic_changes_nothing():
    rows = [judged(f"t{i % 7}", random.Random(i).random(), i % 3 == 0) for i in range(40)]
    for row in reselect(rows, rows, (2, 4), draws=50):
        assert row.change.low == row.change.value == row.change.high == 0


def test_what_only_one_has_judged_is_left_out():
    rows = [judged("a", 0.9, False), judged("a", 0.1, True)]
    [row] = reselect(rows, rows[:1], (1, 2), draws=20)
    assert (row.n, row.before.value) == (1, 0)


def world(seed, better):
    """Half of the first steps have a candidate that would have succeeded and was not taken."""
    rng = random.Random(seed)
    found = []
    for i in range(400):
        good = rng.random() < 0.5
        if good and better:
            steps = ((False, 0.9),)  # it takes another, of which its Q is high
            won = False
        else:
            q = rng.choice([0.9, 0.1])
            steps = ((True, q),)
            won = rng.random() < q
        found.append(Redecided(f"t{i % 80}", won, steps))
    return found


def test_a_critic_that_agrees_everywhere_changes_nothing():
    found = redecide(world(0, better=False), draws=50)
    assert found is not None
    assert (found.same, found.followed) == (1, 1)
    assert found.change.value == found.change.low == found.change.high == 0


def test_a_deviation_stands_at_what_its_q_has_meant_elsewhere():
    rows = world(0, better=True)
    found = redecide(rows, draws=100)
    assert found is not None
    deviating = [one for one in rows if one.deviates_at == 0]
    assert found.followed == pytest.approx(1 - len(deviating) / len(rows))
    assert found.change.value == pytest.approx(0.9 * len(deviating) / len(rows), abs=0.05)
    assert found.change.low > 0


def test_without_anything_to_calibrate_by_there_is_no_estimate():
    assert redecide([Redecided("t", True, ((False, 0.5),))]) is None
    assert redecide([]) is None
