"""Which of several attempts is returned."""

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
