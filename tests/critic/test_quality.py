"""What is said of a critic, on critics of which it is known how good they are."""

import random
from dataclasses import replace

import pytest

from critic.errors import CriticInputError
from critic.hacking import LEAST, hacking
from critic.judged import Judged, calibrated
from critic.quality import cross_fitted, fit_calibration, quality
from tests.critic.test_selecting import judged


def worlds(tasks=60, each=6, *, sure=1.0, seed=0, k=1, lifted=0.0):
    """Trajectories whose last Q is their true chance of success, made surer than it is."""
    rng = random.Random(seed)
    found = []
    for task in range(tasks):
        for _ in range(each):
            chance = rng.uniform(0.02, 0.98)
            odds = (chance / (1 - chance)) ** sure
            won = rng.random() < chance
            q = min(1.0, odds / (1 + odds) + (0 if won else lifted))
            found.append(judged(f"t{task}", q, won, answer=str(rng.random()), k=k))
    return found


def test_a_good_critic_is_told_from_one_that_knows_nothing():
    good = quality(worlds(), ns=(3,), draws=100)
    rng = random.Random(1)
    blind = quality(
        [judged(one.task_id, rng.random(), one.won) for one in worlds()], ns=(3,), draws=100
    )
    assert good.by_share[-1].within_task.low > 0.6 > blind.by_share[-1].within_task.high
    assert good.best_of[0].over_random.low > 0 > blind.best_of[0].over_random.low
    assert [row.share for row in good.by_share] == [0, 0.25, 0.5, 0.75, 1]


def test_q_at_a_share_is_one_number_however_many_turns():
    one = Judged("i", "t", 1.0, True, 1, 0, "", False, (0.1, 0.2, 0.3, 0.4))
    assert [one.q_at(share) for share in (0, 0.25, 0.5, 1)] == [0.1, 0.2, 0.3, 0.4]
    single = Judged("i", "t", 1.0, True, 1, 0, "", False, (0.7,))
    assert single.q_at(0) == single.q_at(1) == 0.7


def test_calibration_is_measured_on_tasks_it_was_not_fitted_on():
    sure = worlds(tasks=200, sure=4)
    found = cross_fitted(sure, "platt")
    assert found is not None
    assert found.ece_before > 0.1 > found.ece_after
    # a calibration that had seen each task would mend what cannot be mended
    noise = [judged(f"t{i}", random.Random(i).random(), i % 2 == 0) for i in range(200)]
    blind = cross_fitted(noise, "isotonic")
    assert blind is not None
    assert blind.brier_after > 0.2
    fitted = fit_calibration(sure, "isotonic")
    assert calibrated(sure, fitted.apply)[0].last_q == fitted.apply(sure[0].last_q)


def test_without_both_outcomes_there_is_no_calibration_and_without_trajectories_nothing():
    with pytest.raises(CriticInputError, match="successes and failures"):
        fit_calibration([judged("t", 0.5, True)], "platt")
    found = quality([judged("t", 0.5, True)], draws=10)
    assert found.calibrated == []
    assert found.model_dump_json()  # with what is not a number left out
    with pytest.raises(CriticInputError, match="no trajectory"):
        quality([])


def test_value_hacking_is_a_rise_of_failures_within_tasks():
    alone, guided = worlds(seed=0), worlds(seed=1, k=4, lifted=0.2)
    found = hacking([*alone, *guided], draws=200)
    assert found is not None
    assert 0.1 < found.rise.low < found.rise.high
    same = hacking([*alone, *worlds(seed=1, k=4)], draws=200)
    assert same is not None
    assert abs(same.rise.value) < 0.1 < found.rise.value
    assert hacking(alone) is None


def test_hacking_is_not_confused_by_which_tasks_are_failed():
    """Lookahead solves the easy ones: the failures that are left are on hard tasks."""
    hard = [judged(f"hard {i}", 0.1, False, k=k) for i in range(LEAST) for k in (1, 4)]
    easy = [judged("easy", 0.6, False), judged("easy", 0.9, True, k=4)]
    found = hacking([*hard, *easy], draws=20)
    assert found is not None
    assert (found.tasks, found.rise.value) == (LEAST, 0)
    assert hacking(hard[:-1]) is None  # too few for an interval


def test_a_vote_of_candidates_is_no_lookahead():
    votes = [replace(one, guided=False) for one in worlds(seed=1, k=4, lifted=0.2)]
    assert hacking([*worlds(seed=0), *votes]) is None


def test_a_critic_that_ranks_the_wrong_way_round_has_no_platt():
    wrong = [replace(one, qs=tuple(1 - q for q in one.qs)) for one in worlds()]
    with pytest.raises(CriticInputError, match="less success"):
        fit_calibration(wrong, "platt")
    assert [fit.kind for fit in quality(wrong, draws=10).calibrated] == ["isotonic"]


def test_what_was_made_under_lookahead_is_looked_at_for_hacking_only():
    alone = worlds(seed=0)
    found = quality([*alone, *worlds(seed=1, k=4)], draws=10)
    assert (found.trajectories, found.left_out) == (len(alone), len(alone))
    assert found.by_share == quality(alone, draws=10).by_share
    assert found.hacking is not None


def test_one_task_that_tells_gives_no_interval():
    rows = [judged(f"t{i}", 0.5 + 0.1 * j, i == 0 and j == 1) for i in range(5) for j in range(2)]
    last = quality(rows, ns=(1,), draws=50).by_share[-1]
    assert last.within_task.value == 1.0
    assert last.within_task.between("{:.1f}".format) == "no interval"
    assert last.auc.between("{:.1f}".format) != "no interval"


def test_a_calibration_is_fitted_on_what_it_is_measured_on():
    alone = worlds(sure=3)
    both = [*alone, *worlds(sure=0.3, seed=5, k=4)]
    assert fit_calibration(both, "platt") == fit_calibration(alone, "platt")
