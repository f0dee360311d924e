"""Calibration keeps the order of Q and mends its level."""

import math
import random
from statistics import mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.calibration import fit_isotonic, fit_platt
from critic.checkpoint import CriticCard
from critic.evaluation import ece

FITS = [fit_platt, fit_isotonic]
unit = st.floats(0, 1, allow_nan=False)
pairs = st.lists(st.tuples(unit, st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: len({won for _, won in rows}) == 2
)


def test_a_good_critic_whose_q_are_near_an_end_is_calibrated():
    """A whole step of Newton's overshoots there, and said that success falls with Q."""
    fitted = fit_platt([0.0, 0.0, 1e-5, 2e-5, 1e-3], [0, 0, 0, 1, 1])
    assert fitted.apply(1e-3) > fitted.apply(0.0)


@given(pairs)
def test_no_line_near_the_fitted_one_is_likelier(rows):
    q, won = zip(*rows, strict=True)
    try:
        fitted = fit_platt(q, won)
    except ValueError:
        return
    x = np.array([math.log(v / (1 - v)) for v in np.clip(q, 1e-6, 1 - 1e-6)])

    def loss(slope, offset):
        z = slope * x + offset
        prior = 5e-4 * ((slope - 1) ** 2 + offset**2)
        return float(np.sum(np.logaddexp(0, z) - np.array(won) * z)) + prior

    best = loss(fitted.slope, fitted.offset)
    for ds, do in ((1e-2, 0), (-1e-2, 0), (0, 1e-2), (0, -1e-2)):
        assert loss(fitted.slope + ds, fitted.offset + do) >= best - 1e-9


@pytest.mark.parametrize("fit", FITS)
@given(pairs, unit, unit)
def test_the_order_is_kept_and_what_comes_out_is_a_probability(fit, rows, a, b):
    q, won = zip(*rows, strict=True)
    try:
        fitted = fit(q, won)
    except ValueError:  # success falls with Q, as Platt sees it
        logits = [math.log(inside / (1 - inside)) for inside in np.clip(q, 1e-6, 1 - 1e-6)]
        succeeded, failed = (
            [x for x, w in zip(logits, won, strict=True) if w is k] for k in (True, False)
        )
        assert fit is fit_platt
        assert mean(succeeded) < mean(failed) + 0.2  # the prior's share
        return
    low, high = fitted.apply(min(a, b)), fitted.apply(max(a, b))
    assert 0 <= low <= high + 1e-12 <= 1 + 1e-9


@pytest.mark.parametrize("fit", FITS)
def test_a_critic_that_is_too_sure_is_mended(fit):
    rng = random.Random(0)
    truth = [rng.random() for _ in range(4000)]
    won = [float(rng.random() < t) for t in truth]
    odds = [(t / (1 - t)) ** 3 for t in truth]
    q = [o / (1 + o) for o in odds]
    fitted = fit(q[:2000], won[:2000])
    before = ece(q[2000:], won[2000:])
    after = ece([fitted.apply(v) for v in q[2000:]], won[2000:])
    assert before > 0.1
    assert after < 0.05


@pytest.mark.parametrize("fit", FITS)
def test_outcomes_of_one_kind_are_refused(fit):
    with pytest.raises(ValueError, match="successes and failures"):
        fit([0.1, 0.9], [1, 1])


@pytest.mark.parametrize("fit", FITS)
def test_a_card_carries_it(fit):
    fitted = fit([0.1, 0.3, 0.6, 0.9], [0, 1, 0, 1])
    card = CriticCard.model_validate_json(CriticCard(calibration=fitted).model_dump_json())
    assert card.q([0.4]) == pytest.approx(fitted.apply(card.uncalibrated_q([0.4])))


def test_the_expectation_of_a_categorical_head_is_between_its_bins():
    card = CriticCard(activation="expectation", labels=7)  # 0, 0, 0, 0.5, 1, 1, 1
    assert card.q([0.0] * 7) == pytest.approx(0.5)
    assert card.q([0.0] * 3 + [50.0, 50.0, 0.0, 0.0]) == pytest.approx(0.75)
    assert 0 < card.q([9.0, 9.0, 8.0] + [0.0] * 4) < card.q([8.0, 8.0, 9.0] + [0.0] * 4) < 0.001
    with pytest.raises(ValueError, match="at least 6 labels"):
        CriticCard(activation="expectation", labels=5)


def test_equal_q_have_one_rate_whatever_the_order_of_their_outcomes():
    for won in ([1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]):
        fitted = fit_isotonic([0.5] * 4, won)
        assert fitted.apply(0.5) == 0.25


@pytest.mark.parametrize("fit", FITS)
def test_nothing_is_fitted_on_nothing_or_on_one_outcome(fit):
    for q, won in (([], []), ([0.1, 0.9], [1, 1])):
        with pytest.raises(ValueError, match="successes and failures"):
            fit(q, won)
