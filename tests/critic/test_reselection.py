"""Recorded choices made again."""

import random
from dataclasses import replace

import pytest

from critic.redeciding import redecided
from critic.reselection import Reconsidered, Redecided, redecide, reselect
from pilotfish import Candidate, Message
from tests.critic.test_selecting import judged
from tests.tiny import trajectory


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
    """Some first steps have a candidate that the other critic takes, of which the log's Q says
    that one in ten succeeds; what was executed there succeeds in half."""
    rng = random.Random(seed)
    found = []
    for i in range(600):
        q = rng.choice([0.1, 0.5, 0.9])
        won = rng.random() < q
        same = not (better and q == 0.5)
        choice = q if same else 0.9 if better == "right" else 0.1
        found.append(Redecided(f"t{i % 80}", won, (Reconsidered(same, q, choice),)))
    return found


def test_a_critic_that_agrees_everywhere_changes_nothing():
    found = redecide(world(0, better=None), draws=50)
    assert found is not None
    assert (found.same, found.followed) == (1, 1)
    assert found.change.value == found.change.low == found.change.high == 0


@pytest.mark.parametrize(("better", "gain"), [("right", 0.4), ("wrong", -0.4)])
def test_a_deviation_stands_at_what_the_logs_q_has_meant_elsewhere(better, gain):
    found = redecide(world(0, better), draws=100)
    assert found is not None
    deviating = 1 - found.followed
    assert 0.25 < deviating < 0.4
    assert found.change.value == pytest.approx(gain * deviating, abs=0.05)
    assert found.change.low > 0 or found.change.high < 0


def test_without_anything_to_calibrate_by_there_is_no_estimate():
    assert redecide([Redecided("t", True, (Reconsidered(False, 0.5, 0.5),))]) is None
    assert redecide([]) is None


class Undecided:
    """A judge to whom everything is the same."""

    at_once = 1

    def turns(self, trajectories):
        return [[0.5] * len(t.steps) for t in trajectories]

    def candidates(self, trajectory, of_steps):
        return [[0.5] * len(actions) for actions in of_steps]


def test_of_equal_q_the_more_probable_is_taken_as_lookahead_takes_it():
    some = trajectory("t", ["rare"], reward=1.0)
    decision = some.steps[0].decision
    decision.candidates[0].q, decision.candidates[0].logprob = 0.4, -9.0
    likely = Candidate(index=1, message=Message.assistant("likely"), q=0.3, logprob=-1.0)
    decision.candidates.append(likely)
    [found] = redecided(Undecided(), [some])
    assert not found.steps[0].same
    assert found.steps[0].q_of_choice == 0.3
