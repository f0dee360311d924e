"""Several critics as one."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pilotfish import Message
from search.contracts import Score
from search.errors import CriticError, CriticRefused, CriticTooLong
from search.fakes import FakeCritic
from service.critics.ensemble import Ensemble, combine
from service.parts import Parts
from service.settings import EnsembleCriticSettings, Settings

STATE = [Message.user("u")]
TURNS = [Message.assistant(text) for text in ("a", "bb")]
QS = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@given(QS, st.floats(0, 5))
def test_it_is_the_mean_less_what_the_members_are_apart(qs, pessimism):
    score = combine(qs, pessimism)
    assert 0 <= score.q <= 1
    assert score.spread == pytest.approx(statistics.pstdev(qs))
    assert score.q <= max(qs) + 1e-9
    assert combine(qs, 0).q == pytest.approx(statistics.fmean(qs))
    assert combine(qs, pessimism).q <= combine(qs, pessimism / 2).q + 1e-9


class Refusing(FakeCritic):
    def __init__(self, error):
        super().__init__(lambda state, action: 0.5, name="refusing")
        self.error = error

    async def score(self, state, actions, *, session=None):
        raise self.error

    warm = score_turns = lambda self, *_, **__: self.score(None, None)


def fake(q, name):
    return FakeCritic(lambda state, action: q * len(action.text), name=name)


def ensemble(*members, **settings):
    names = [member.name for member in members]
    given = {"type": "ensemble", "members": names, **settings}
    return Ensemble("e", EnsembleCriticSettings.model_validate(given), members)


async def test_members_are_asked_and_their_scores_put_together_in_order():
    made = ensemble(fake(0.2, "a"), fake(0.4, "b"), pessimism=1)
    assert await made.score(STATE, TURNS) == [
        Score(pytest.approx(0.2), pytest.approx(0.1)),
        Score(pytest.approx(0.4), pytest.approx(0.2)),
    ]
    history = [*STATE, TURNS[0], *STATE, TURNS[1]]
    assert await made.score_turns(history) == await made.score(STATE, TURNS)


async def test_by_default_all_must_answer():
    made = ensemble(fake(0.2, "a"), Refusing(CriticError("down")))
    with pytest.raises(CriticError, match="1 of 2 members of e answer, 2 must: refusing: down"):
        await made.score(STATE, TURNS)
    with pytest.raises(CriticError, match="refusing: down"):
        await made.warm(STATE)


async def test_those_that_fail_are_left_out_where_fewer_are_enough():
    made = ensemble(fake(0.2, "a"), Refusing(CriticRefused("no")), min_members=1)
    assert await made.score(STATE, TURNS) == [Score(0.2, 0.0), Score(0.4, 0.0)]
    made = ensemble(Refusing(CriticError("no")), Refusing(CriticError("no")), min_members=1)
    with pytest.raises(CriticError, match="0 of 2"):
        await made.score(STATE, TURNS)


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ([CriticTooLong("l"), CriticTooLong("l")], CriticTooLong),
        ([CriticTooLong("l"), CriticRefused("r")], CriticRefused),
        ([CriticTooLong("l"), CriticError("d")], CriticError),
    ],
)
async def test_it_is_a_refusal_only_where_every_failure_is_one(errors, kind):
    with pytest.raises(CriticError) as raised:
        await ensemble(*map(Refusing, errors)).score_turns(STATE)
    assert type(raised.value) is kind


def test_every_turn_is_read_if_every_member_reads_it():
    a, b = fake(0.2, "a"), fake(0.2, "b")
    assert ensemble(a, b).every_turn
    b.every_turn = False
    assert not ensemble(a, b).every_turn


CONSTANT = {"type": "constant"}


def of(*members):
    return {"type": "ensemble", "members": list(members)}


@pytest.mark.parametrize(
    ("critics", "told"),
    [
        ({"e": of("x"), "a": CONSTANT}, "e: there is no critic 'x'; there are: a"),
        ({"e": of("e")}, "its own member: e of e"),
        ({"e": of("f"), "f": of("g"), "g": of("e")}, "its own member: . of . of . of ."),
        ({"e": of()}, "at least 1 item"),
        ({"e": of("a") | {"min_members": 2}, "a": CONSTANT}, "min_members is 2 of 1"),
    ],
)
def test_an_ensemble_that_cannot_be_is_told_at_the_start(critics, told):
    with pytest.raises(ValidationError, match=told):
        Settings.model_validate({"critics": critics})


async def test_members_may_stand_behind_and_be_ensembles_and_the_first_stays_the_default():
    critics = {"all": of("two", "c"), "two": of("a", "b")}
    critics |= {name: CONSTANT | {"q": q} for name, q in (("a", 0.2), ("b", 0.4), ("c", 0.9))}
    settings = Settings.model_validate({"critics": critics, "sandboxes": {}})
    async with Parts(settings) as parts:
        assert list(parts.critics) == ["all", "two", "a", "b", "c"]
        [score] = await parts.critic(None).score(STATE, TURNS[:1])
    assert score.q == pytest.approx(0.6)
