"""One pass over padded trajectories gives at every turn what each history gives alone."""

import pytest
import torch

from critic.data import collate, example_of, prepare
from critic.losses import cross_entropy
from critic.model import ValueModel, from_causal_lm
from critic.rendering import Rendered, Renderer
from critic.training import targets_of
from tests.tiny import causal_lm, tokenizer, trajectory

LONG = ["```bash\nls\n```"] * 6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = causal_lm(tmp_path_factory.mktemp("model"), layers=3)
    return ValueModel(from_causal_lm(folder, head_std=0.5), "sigmoid").eval()


@pytest.fixture(scope="module")
def examples():
    rows = [trajectory(f"t{n}", [*LONG[:n], "submit"], reward=n % 2) for n in range(6)]
    return prepare(rows, Renderer(tokenizer())).examples


def by_action(example):
    """A sequence of its own for every turn of an example."""
    [ids], [ends] = example.ids, example.turn_ends
    return [example_of([Rendered(ids[: end + 1].tolist(), [end])]) for end in ends]


def test_padding_is_not_read_though_it_is_not_masked(model, examples):
    batch = collate(examples, pad_id=0)
    mask = torch.zeros_like(batch.ids_BL)
    for row, example in zip(mask, examples, strict=True):
        row[: example.length] = 1
    masked_BLH = model.network.base_model(batch.ids_BL, attention_mask=mask).last_hidden_state
    rows, places = batch.at_P2.T
    wanted = model.network.score(masked_BLH[rows, places])
    torch.testing.assert_close(model(batch.ids_BL, batch.at_P2), wanted, atol=1e-5, rtol=1e-5)
    other = collate(examples, pad_id=7)
    torch.testing.assert_close(model(other.ids_BL, other.at_P2), wanted, atol=1e-5, rtol=1e-5)


def test_attention_is_told_to_be_causal_instead_of_given_a_mask(model, examples, monkeypatch):
    told = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def listening(*args, **kwargs):
        told.append((kwargs["attn_mask"], kwargs["is_causal"]))
        return attend(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", listening)
    batch = collate(examples, pad_id=0)
    model(batch.ids_BL, batch.at_P2)
    model.network.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()(batch.ids_BL, batch.at_P2).sum().backward()
    model.eval().network.gradient_checkpointing_disable()
    assert told == [(None, True)] * len(told)
    assert len(told) == 9  # of three layers: once, and twice where it is computed again


def test_one_pass_has_the_loss_of_a_sequence_for_every_action(model, examples):
    def loss(parts):
        batch = collate(parts, pad_id=0)
        raw = model(batch.ids_BL, batch.at_P2)
        targets = targets_of(torch.sigmoid(raw[:, 0]).tolist(), examples, lam=0.7, gamma=1.0)
        return cross_entropy(raw, targets).mean()

    together, apart = loss(examples), loss([one for e in examples for one in by_action(e)])
    torch.testing.assert_close(together, apart, atol=1e-6, rtol=1e-5)
    own, alone = (
        torch.autograd.grad(value, model.network.score.weight)[0] for value in (together, apart)
    )
    torch.testing.assert_close(own, alone, atol=1e-5, rtol=1e-4)
