"""Training a critic: one program, top to bottom. Knows nothing of where trajectories come from.

Departures from the paper's recipe (Zainullina et al., ICML 2025):
1. Targets are of the online network, from the same forward pass, without gradient: the paper names
   no target network, and this costs nothing.
2. The head's scalar goes through a sigmoid and the loss is binary cross-entropy by default (``l2``
   is the paper's): Q is a probability here, and cross-entropy learns its ends faster.
3. Early passes may use a higher lambda than the last (``warm_lam``): a fresh head's own values say
   nothing to bootstrap from.

Run it: ``python -m critic train --init POLICY --data runs.jsonl --out critic/``
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from critic import model as value_model
from critic.checkpoint import CriticCard, read_renderer, write_card
from critic.data import Batch, Example, batches, prepare, split_by_task
from critic.errors import CriticInputError
from critic.evaluation import auc, brier, ece, within_task
from critic.targets import td_lambda
from critic.trajectory import Trajectory

Loss = Literal["bce", "l2"]


class TrainingSettings(BaseModel):
    """One training."""

    model_config = ConfigDict(extra="forbid")

    lam: float = Field(default=0.7, ge=0, le=1)
    warm_lam: float = Field(default=1.0, ge=0, le=1)
    """Lambda of the first pass."""
    gamma: float = Field(default=1.0, ge=0, le=1)
    loss: Loss = "bce"
    epochs: int = Field(default=3, ge=1)
    lr: float = Field(default=3e-4, gt=0)
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps."""
    weight_decay: float = 0.1
    batch_tokens: int = Field(default=16_384, ge=1)
    max_tokens: int | None = None
    held_out: float = Field(default=0.1, ge=0, lt=1)
    """Share of the tasks."""
    policy_in_prompt: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of attention."""
    seed: int = 0


Progress = Callable[[int, int, dict[str, float]], None]
"""Called after each optimiser step with (step, steps, metrics)."""


def train(
    init: str | Path,
    trajectories: Iterable[Trajectory],
    out: str | Path,
    settings: TrainingSettings,
    *,
    progress: Progress = lambda step, steps, metrics: None,
) -> dict[str, float]:
    """Train a critic from the causal LM (or the critic) in ``init`` and write it to ``out``.

    Returns: metrics of the kept checkpoint on held-out tasks. Raises: ``CriticInputError`` without
    usable data; ``FloatingPointError`` when the loss is no longer finite (the best checkpoint so
    far is kept).
    """
    torch.manual_seed(settings.seed)
    out = Path(out)
    rows = list(trajectories)
    card = _card(settings, rows)
    renderer = read_renderer(init, card)
    prepared = prepare(rows, renderer)
    training, held_out = split_by_task(prepared.examples, settings.held_out, seed=settings.seed)
    if not training:
        raise CriticInputError(
            f"nothing to train on: {len(rows)} trajectories, {prepared.unrewarded} without a "
            f"reward, {prepared.too_long} too long"
        )
    network = _begin(init, settings)
    value_model.freeze_embeddings(network)
    pad = int(network.config.pad_token_id)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    epochs = [
        batches(training, settings.batch_tokens, seed=settings.seed * 1000 + epoch, pad_id=pad)
        for epoch in range(settings.epochs)
    ]
    steps = sum(map(len, epochs))
    optimizer = _optimizer(network, settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(steps, settings.warmup))
    log = _Log(out)
    best: dict[str, float] = {}
    step = 0
    for epoch, epoch_batches in enumerate(epochs):
        network.train()
        lam = settings.warm_lam if epoch == 0 else settings.lam
        for batch in epoch_batches:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                raw = value_model.raw_values(
                    network, batch.ids_BL.to(device), batch.mask_BL.to(device), batch.at_P2
                )
            loss = loss_of(raw, targets_of(raw, batch, lam, settings.gamma), settings.loss)
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            metrics = {"loss": loss.item(), "lr": float(schedule.get_last_lr()[0])}
            log.write(step=step, epoch=epoch, **metrics)
            progress(step, steps, metrics)
        measured = evaluate(network, held_out or training, settings.batch_tokens, pad)
        log.write(step=step, epoch=epoch, **measured)
        progress(step, steps, measured)
        if not best or measured["brier_last"] <= best["brier_last"]:
            best = measured | {"epoch": float(epoch)}
            _save(network, renderer.tokenizer, card, out)
    return best | {
        "trajectories": float(len(prepared.examples)),
        "unrewarded": float(prepared.unrewarded),
        "too_long": float(prepared.too_long),
    }


def targets_of(raw: Tensor, batch: Batch, lam: float, gamma: float) -> Tensor:
    """TD(lambda) targets, (P,), from the network's own values without gradient."""
    values = torch.sigmoid(raw.detach()).tolist()
    targets: list[float] = []
    at = 0
    for example in batch.examples:
        turns = len(example.turn_ends)
        targets += td_lambda(values[at : at + turns], example.reward, lam=lam, gamma=gamma)
        at += turns
    return torch.tensor(targets, device=raw.device)


def loss_of(raw: Tensor, targets: Tensor, kind: Loss) -> Tensor:
    """Mean loss over agent turns; nothing else of the sequence counts."""
    if kind == "l2":
        return functional.mse_loss(torch.sigmoid(raw), targets)
    return functional.binary_cross_entropy_with_logits(raw, targets)


@torch.no_grad()
def values_of(
    network: Any, examples: list[Example], batch_tokens: int, pad: int
) -> dict[int, list[float]]:
    """Q at every turn, by ``id`` of the example."""
    network.eval()
    device = next(network.parameters()).device
    found: dict[int, list[float]] = {}
    for batch in batches(examples, batch_tokens, seed=None, pad_id=pad):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            raw = value_model.raw_values(
                network, batch.ids_BL.to(device), batch.mask_BL.to(device), batch.at_P2
            )
        q = iter(torch.sigmoid(raw).tolist())
        for example in batch.examples:
            found[id(example)] = [next(q) for _ in example.turn_ends]
    return found


def evaluate(
    network: Any, examples: list[Example], batch_tokens: int, pad: int
) -> dict[str, float]:
    """Metrics of Q: at the last turn (``_last``: what selection uses) and at all turns."""
    found = values_of(network, examples, batch_tokens, pad)
    last = [found[id(e)][-1] for e in examples]
    won = [e.reward for e in examples]
    every = [(q, e.reward) for e in examples for q in found[id(e)]]
    all_q, all_won = zip(*every, strict=True)
    return {
        "auc_last": auc(last, [w > 0.5 for w in won]),
        "auc_all": auc(all_q, [w > 0.5 for w in all_won]),
        "within_task_last": within_task([e.task_id for e in examples], last, won),
        "brier_last": brier(last, won),
        "brier_all": brier(all_q, all_won),
        "ece_last": ece(last, won),
    }


def _begin(init: str | Path, settings: TrainingSettings) -> Any:
    if (Path(init) / "critic.json").exists():
        network, _ = value_model.load(init)
    else:
        network = value_model.from_causal_lm(init)
    if settings.dropout:
        network.config.attention_dropout = settings.dropout
        for module in network.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = settings.dropout
    return network


def _card(settings: TrainingSettings, rows: list[Trajectory]) -> CriticCard:
    return CriticCard(
        lam=settings.lam,
        gamma=settings.gamma,
        policies=sorted({row.policy for row in rows}),
        policy_in_prompt=settings.policy_in_prompt,
        max_tokens=settings.max_tokens,
    )


def _optimizer(network: Any, settings: TrainingSettings) -> torch.optim.Optimizer:
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.95))


def _cosine(steps: int, warmup: float) -> Callable[[int], float]:
    warm = max(1, int(steps * warmup))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))

    return factor


def _save(network: Any, tokenizer: Any, card: CriticCard, out: Path) -> None:
    """Write the whole checkpoint beside ``out``, then put it in place."""
    fresh = out.with_name(f"{out.name}.tmp-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    stored = {k: v.to(torch.bfloat16) for k, v in network.state_dict().items()}
    network.save_pretrained(fresh, state_dict=stored)
    config = json.loads((fresh / "config.json").read_text())
    config["dtype"] = "bfloat16"
    config["attention_dropout"] = 0.0
    (fresh / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(fresh)
    write_card(fresh, card)
    out.mkdir(parents=True, exist_ok=True)
    for file in fresh.iterdir():
        os.replace(file, out / file.name)
    fresh.rmdir()


class _Log:
    """``metrics.jsonl`` beside the checkpoint."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._file = out / "metrics.jsonl"
        self._file.write_text("")
        self._began = time.monotonic()

    def write(self, **values: float) -> None:
        row = {"seconds": round(time.monotonic() - self._began, 2), **values}
        with self._file.open("a") as out:
            out.write(json.dumps(row) + "\n")
