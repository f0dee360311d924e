"""Which of several attempts is returned."""

import math

from hypothesis import given
from hypothesis import strategies as st

from search.selection import select
from tests.tiny import trajectory


def attempt(q, *, submitted=True):
    made = trajectory("t", ["look", "submit"])
    made.steps[-1].decision.winner.q = q
    made.exit_status = "Submitted" if submitted else "StepLimitExceeded"
    return made


def test_the_highest_last_q_is_chosen():
    choice = select([attempt(0.2), attempt(0.9), attempt(0.5)])
    assert (choice.chosen, choice.ranking, choice.reason) == (1, [1, 2, 0], "argmax")


def test_what_submitted_comes_before_what_did_not():
    choice = select([attempt(0.9, submitted=False), attempt(0.1)])
    assert choice.ranking == [1, 0]


def test_what_is_not_scored_comes_last_and_alone_is_said():
    assert select([attempt(None), attempt(0.0)]).ranking == [1, 0]
    assert select([attempt(None), attempt(None)]).reason == "unscored"


def test_equal_ones_go_by_position():
    assert select([attempt(0.5), attempt(0.5)]).ranking == [0, 1]


def test_below_the_threshold_it_abstains_and_still_ranks():
    choice = select([attempt(0.2), attempt(0.4)], abstain_below=0.5)
    assert (choice.chosen, choice.ranking, choice.reason) == (None, [1, 0], "abstained")
    assert select([attempt(None)], abstain_below=0.0).reason == "abstained"
    assert select([attempt(0.5)], abstain_below=0.5).chosen == 0


@given(st.lists(st.tuples(st.none() | st.floats(0, 1), st.booleans()), min_size=1, max_size=8))
def test_a_ranking_holds_every_position_once_and_falls(drawn):
    attempts = [attempt(q, submitted=submitted) for q, submitted in drawn]
    choice = select(attempts)
    assert sorted(choice.ranking) == list(range(len(attempts)))
    merits = [
        (attempts[i].submitted, -1.0 if (q := attempts[i].last_q) is None else q)
        for i in choice.ranking
    ]
    assert merits == sorted(merits, reverse=True)


# ---- the hybrid rule


def counted(q, regression, generated, *, submitted=True):
    made = attempt(q, submitted=submitted)
    made.regression_passed, made.generated_passed = regression, generated
    return made


def test_what_passes_more_is_chosen_among_what_the_critic_keeps():
    attempts = [counted(0.9, 1, 5), counted(0.8, 3, 0), counted(0.7, 3, 1), counted(0.1, 9, 9)]
    choice = select(attempts, rule="hybrid")
    assert (choice.chosen, choice.ranking, choice.reason) == (2, [2, 1, 0, 3], "hybrid")
    assert select(attempts).chosen == 0


def test_what_did_not_submit_stays_behind_what_did():
    attempts = [attempt(0.9, submitted=False), counted(0.1, 0, 0), counted(0.2, 0, 0)]
    assert select(attempts, rule="hybrid").ranking == [2, 1, 0]


def test_without_tests_the_hybrid_rule_is_the_critics_and_says_so():
    attempts = [attempt(0.2), attempt(0.9)]
    choice = select(attempts, rule="hybrid")
    assert (choice.ranking, choice.reason) == (select(attempts).ranking, "untested")
    assert select([attempt(None)] * 2, rule="hybrid").reason == "unscored"
    assert select([counted(0.5, 1, None)], rule="hybrid").reason == "only"


def test_it_abstains_by_the_q_of_what_the_tests_chose():
    attempts = [counted(0.9, 0, 0), counted(0.4, 1, 0)]
    assert select(attempts, rule="hybrid", abstain_below=0.5).reason == "abstained"
    assert select(attempts, rule="hybrid", abstain_below=0.4).chosen == 1


COUNTS = st.none() | st.integers(0, 3)
TESTED = st.lists(
    st.tuples(st.none() | st.floats(0, 1), COUNTS, COUNTS, st.booleans()), min_size=1, max_size=10
)


def made(drawn):
    return [counted(q, r, g, submitted=submitted) for q, r, g, submitted in drawn]


@given(TESTED)
def test_the_chosen_one_is_of_the_kept_top_and_none_there_passes_more(drawn):
    attempts = made(drawn)
    by_critic = select(attempts).ranking
    ranking = select(attempts, rule="hybrid").ranking
    kept = by_critic[: max(3, math.ceil(len(attempts) / 2))]
    assert set(ranking[: len(kept)]) == set(kept)
    assert ranking[len(kept) :] == by_critic[len(kept) :]
    passed = [(t.submitted, t.regression_passed or 0, t.generated_passed or 0) for t in attempts]
    most = max(passed[i] for i in kept)
    equal = [i for i in kept if passed[i] == most]
    assert ranking[0] == equal[0]  # of those that pass as much, the critic's first


@given(TESTED)
def test_with_equal_counts_it_is_the_critics_choice(drawn):
    for regression, generated in ((None, None), (0, 0), (2, None)):
        attempts = made([(q, regression, generated, submitted) for q, _, _, submitted in drawn])
        assert select(attempts, rule="hybrid").ranking == select(attempts).ranking


@given(TESTED, st.randoms(use_true_random=False))
def test_the_order_in_which_attempts_are_given_decides_only_ties(drawn, rng):
    drawn = [(i / 16 if q is not None else None, *rest) for i, (q, *rest) in enumerate(drawn)]
    unscored = [i for i, one in enumerate(drawn) if one[0] is None]
    drawn = [one for i, one in enumerate(drawn) if i not in unscored[1:]]  # two would be a tie
    shuffled = rng.sample(drawn, len(drawn))
    first, second = select(made(drawn), rule="hybrid"), select(made(shuffled), rule="hybrid")
    assert [drawn[i] for i in first.ranking] == [shuffled[i] for i in second.ranking]
