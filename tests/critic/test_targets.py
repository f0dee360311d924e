"""TD(lambda) by its properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.targets import monte_carlo, td_lambda, td_lambda_forward

unit = st.floats(0, 1)
values = st.lists(unit, min_size=1, max_size=12)


@given(values, unit, unit, unit)
def test_the_backward_scan_equals_the_forward_view(q, reward, lam, gamma):
    backward = td_lambda(q, reward, lam=lam, gamma=gamma)
    assert backward == pytest.approx(td_lambda_forward(q, reward, lam=lam, gamma=gamma), abs=1e-9)


@given(values, unit, unit)
def test_lambda_one_is_monte_carlo(q, reward, gamma):
    expected = monte_carlo(len(q), reward, gamma=gamma)
    assert td_lambda(q, reward, lam=1, gamma=gamma) == pytest.approx(expected)


@given(values, unit, unit)
def test_lambda_zero_is_one_step(q, reward, gamma):
    expected = [gamma * v for v in q[1:]] + [reward]
    assert td_lambda(q, reward, lam=0, gamma=gamma) == pytest.approx(expected)


@given(values, unit, unit, unit)
def test_the_last_target_is_the_reward_and_all_are_in_range(q, reward, lam, gamma):
    targets = td_lambda(q, reward, lam=lam, gamma=gamma)
    assert targets[-1] == reward
    assert all(-1e-9 <= y <= 1 + 1e-9 for y in targets)


@given(values, unit, unit)
def test_a_critic_that_is_right_is_its_own_target(q, lam, reward):
    assert td_lambda([reward] * len(q), reward, lam=lam) == pytest.approx([reward] * len(q))


def test_parameters_out_of_range_are_refused():
    with pytest.raises(ValueError, match="lam and gamma"):
        td_lambda([0.5], 1.0, lam=1.5)
    assert td_lambda([], 1.0) == []
