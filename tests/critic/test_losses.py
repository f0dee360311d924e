"""Losses of the value model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from critic.losses import (
    categorical,
    cross_entropy,
    expectation,
    gaussian_bins,
    ordering,
    squared_error,
)

unit = st.floats(0, 1, allow_nan=False)


@given(unit)
def test_no_loss_is_lower_than_where_q_is_the_target(target):
    for loss in (squared_error, cross_entropy):
        raw = torch.tensor([[torch.logit(torch.tensor(target), eps=1e-6)]], requires_grad=True)
        at = loss(raw, torch.tensor([target]))
        for other in (0.05, 0.35, 0.65, 0.95):
            away = loss(torch.logit(torch.tensor([[other]])), torch.tensor([target]))
            assert at.item() <= away.item() + 1e-5


@given(st.lists(unit, min_size=1, max_size=5), st.integers(11, 101))
def test_the_bins_of_a_target_are_probabilities_about_it(targets, bins):
    found = gaussian_bins(torch.tensor(targets), bins)
    assert found.shape == (len(targets), bins)
    assert found.sum(-1).tolist() == pytest.approx([1.0] * len(targets), abs=1e-5)
    middle = expectation(found.clamp_min(1e-30).log())
    assert middle.tolist() == pytest.approx(targets, abs=0.35 / (bins - 5))  # most at the ends


def test_the_categorical_loss_pulls_the_expectation_to_the_target():
    raw = torch.zeros(1, 21, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        categorical(raw, torch.tensor([0.3])).sum().backward()
        optimizer.step()
    assert expectation(raw).item() == pytest.approx(0.3, abs=0.01)


def test_ordering_compares_unequal_trajectories_of_one_task_only():
    q = torch.tensor([0.9, 0.2, 0.4, 0.7])
    reward = torch.tensor([1.0, 0.0, 0.0, 1.0])
    assert len(ordering(q, reward, ["a", "a", "b", "c"])) == 1
    assert len(ordering(q, reward, ["a"] * 4)) == 4
    assert len(ordering(q, torch.ones(4), ["a"] * 4)) == 0
    assert ordering(q, torch.ones(4), ["a"] * 4).sum().item() == 0


@given(unit, unit)
def test_ordering_is_less_the_further_the_success_is_ahead(a, b):
    loss = ordering(torch.tensor([a, b]), torch.tensor([1.0, 0.0]), ["t", "t"]).item()
    assert (loss <= 0.6932) == (a >= b) or abs(a - b) < 1e-3


def test_how_hard_a_task_is_does_not_count():
    reward, tasks = torch.tensor([1.0, 0.0]), ["t", "t"]
    easy = ordering(torch.tensor([3.0, 2.0]), reward, tasks)
    hard = ordering(torch.tensor([-2.0, -3.0]), reward, tasks)
    assert easy.item() == pytest.approx(hard.item(), abs=1e-4)


def test_ordering_pulls_hardest_where_it_is_most_wrong():
    logits = torch.tensor([-12.0, 12.0], requires_grad=True)
    ordering(logits, torch.tensor([1.0, 0.0]), ["t", "t"]).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([-1.0, 1.0], abs=1e-3)
