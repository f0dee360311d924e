"""The value model: a sequence classification network whose one label is read at every agent turn.
Knows nothing of targets.

Shapes: B sequences, L tokens, H hidden, P positions at which Q is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from critic.checkpoint import CriticCard, read_card


def from_causal_lm(folder: str | Path, *, head_std: float = 0.005) -> Any:
    """A critic begun from a causal LM: its body, and a fresh head of one label. The fresh head is
    small, so that Q starts near 0.5 everywhere under a sigmoid.

    Returns: a ``...ForSequenceClassification`` with ``num_labels=1, problem_type="regression"``.
    """
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        str(folder), num_labels=1, problem_type="regression", dtype=torch.float32
    )
    if model.config.pad_token_id is None:
        eos = model.config.eos_token_id
        model.config.pad_token_id = eos[0] if isinstance(eos, list) else eos
    nn.init.normal_(model.score.weight, std=head_std)
    return model


def load(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> tuple[Any, CriticCard]:
    """Model and card of a critic's folder. Raises: ``CriticInputError``."""
    from transformers import AutoModelForSequenceClassification

    card = read_card(folder)
    model = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype=dtype)
    return model.eval(), card


def raw_values(model: Any, ids_BL: Tensor, mask_BL: Tensor, at_P2: Tensor) -> Tensor:
    """The head's scalars, (P,), at the given (row, position) pairs: what serving would answer for
    the sequence cut after that position."""
    hidden_BLH = model.base_model(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
    values: Tensor = model.score(hidden_BLH[at_P2[:, 0], at_P2[:, 1]]).squeeze(-1)
    return values.float()


def freeze_embeddings(model: Any) -> None:
    """All parameters but the embeddings train."""
    model.get_input_embeddings().weight.requires_grad_(False)
