"""The value model: a sequence classification network whose head is read at every agent turn. Knows
nothing of targets.

Shapes: B sequences, L tokens, H hidden, P positions at which Q is read, C logits of the head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import linear

from critic.checkpoint import HEADS, CriticCard, read_card
from critic.errors import CriticInputError
from critic.losses import expectation

LORA_SCALE = 2.0


class ValueModel(nn.Module):
    """The network, called as training and scoring call it."""

    def __init__(self, network: Any, activation: str) -> None:
        super().__init__()
        self.network, self.activation = network, activation
        self._no_split_modules = network._no_split_modules
        """Names of the layers' classes: the units of a sharded model."""

    def forward(self, ids_BL: Tensor, at_P2: Tensor) -> Tensor:
        """The head's logits, (P, C), at the given (row, position) pairs: what serving would answer
        for the sequence cut after that position.

        Rows are padded on the right, where a causal network reads nothing of them. So there is no
        padding mask: with one, torch's attention leaves its causal kernel, which is faster.
        """
        hidden_BLH = self.network.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
        read = hidden_BLH[at_P2[:, 0], at_P2[:, 1]]
        with torch.autocast(read.device.type, enabled=False):  # else values near each other are one
            return linear(read.float(), self.network.score.weight.float())

    def q(self, raw_PC: Tensor) -> Tensor:
        """Q, (P,), of the head's logits, before calibration."""
        if self.activation == "expectation":
            return expectation(raw_PC)
        raw = raw_PC.squeeze(-1)
        return torch.sigmoid(raw) if self.activation == "sigmoid" else raw.clamp(0, 1)


def from_causal_lm(folder: str | Path, *, labels: int = 1, head_std: float = 0.005) -> Any:
    """A critic begun from a causal LM: its body, and a fresh head. The fresh head is small, so that
    Q starts near 0.5 everywhere.

    Returns: a ``...ForSequenceClassification`` with ``num_labels=labels``. Raises:
    ``CriticInputError``.
    """
    model = _network(
        folder, fresh=HEADS, num_labels=labels, problem_type="regression", dtype=torch.float32
    )
    if model.config.pad_token_id is None:
        eos = model.config.eos_token_id
        model.config.pad_token_id = eos[0] if isinstance(eos, list) else eos
    nn.init.normal_(model.score.weight, std=head_std)
    return model


def load(
    folder: str | Path, *, dtype: torch.dtype = torch.float32
) -> tuple[ValueModel, CriticCard]:
    """Model and card of a critic's folder. Raises: ``CriticInputError``."""
    card = read_card(folder)
    return ValueModel(_network(folder, dtype=dtype), card.activation).eval(), card


def _network(folder: str | Path, *, fresh: Collection[str] = (), **options: Any) -> Any:
    """Of the weights in ``folder``, all of which must be there and fit, but for ``fresh``: what is
    missing would be of random numbers. Raises: ``CriticInputError``."""
    from transformers import AutoModelForSequenceClassification

    try:
        with _silent():
            network, told = AutoModelForSequenceClassification.from_pretrained(
                str(folder), output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CriticInputError(f"{folder} cannot be loaded: {error}") from error
    missing = sorted(set(told["missing_keys"]).difference(fresh))
    unfit = sorted(name for name, *_ in told["mismatched_keys"] if name not in fresh)
    if missing or unfit:
        what = f"lack {missing[0]}" if missing else f"have {unfit[0]} of another shape"
        raise CriticInputError(f"{folder} is not what its config.json says: its weights {what}")
    return network


@contextmanager
def _silent() -> Iterator[None]:
    """What transformers would say of a fresh head is as it should be."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def freeze_embeddings(network: Any) -> None:
    """All parameters but the embeddings train."""
    network.get_input_embeddings().weight.requires_grad_(False)


def add_lora(network: Any, rank: int) -> None:
    """Put adapters into all linear layers of the body, in place; they and the head train."""
    from peft import LoraConfig, inject_adapter_in_model

    names = {
        name.rsplit(".", 1)[-1]
        for name, module in network.base_model.named_modules()
        if isinstance(module, nn.Linear)
    }
    config = LoraConfig(r=rank, lora_alpha=round(LORA_SCALE * rank), target_modules=sorted(names))
    inject_adapter_in_model(config, network)
    network.score.weight.requires_grad_(True)


def plain_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a stock network: adapters (those of ``add_lora``) added to what they adapt,
    and the names as before."""
    plain: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if ".lora_" in name:
            continue
        stem = name.removesuffix(".base_layer.weight")
        if stem == name:
            plain[name.replace(".base_layer.", ".")] = weight
            continue
        down = weights[f"{stem}.lora_A.default.weight"].float()
        up = weights[f"{stem}.lora_B.default.weight"].float()
        plain[f"{stem}.weight"] = weight.float() + LORA_SCALE * (up @ down)
    return plain
