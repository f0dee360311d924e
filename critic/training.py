"""Training a critic: one program, top to bottom. Knows nothing of where trajectories come from.

Departures from the paper's recipe (Zainullina et al., ICML 2025):
1. Targets are of the online network, from the same forward pass, without gradient: the paper names
   no target network, and this costs nothing. ``target_network: ema`` is the usual alternative.
2. The head's scalar goes through a sigmoid and the loss is binary cross-entropy by default (``l2``
   is the paper's): Q is a probability here, and cross-entropy learns its ends faster.
3. Early passes may use a higher lambda than the last (``warm_lam``): a fresh head's own values say
   nothing to bootstrap from.

The order of batches is a function of the settings, and a step's loss is divided by the turns of the
whole step. So a training that was stopped and taken up, and one on several processes (where
``step_tokens`` is given, else each has a batch of every step), take the same steps as one that was
not.

Run it: ``python -m critic train --init POLICY --data runs.jsonl --out critic/``; on several devices
behind ``accelerate launch -m``, sharded with its ``--use_fsdp --fsdp_version 2``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from critic import losses
from critic.checkpoint import CARD, CriticCard, read_card, read_renderer, read_trained_tasks
from critic.data import (
    Example,
    Prepared,
    collate,
    passes_of,
    plan_steps,
    prepare,
    split_by_task,
)
from critic.devices import accelerator_of_here
from critic.errors import CriticInputError
from critic.measuring import measure
from critic.model import ValueModel, add_lora, freeze_embeddings, from_causal_lm, load
from critic.progress import TrainingRun
from critic.settings import Loss, TrainingSettings
from critic.targets import td_lambda
from critic.trajectory import Trajectory

LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "bce": losses.cross_entropy,
    "l2": losses.squared_error,
    "hl_gauss": losses.categorical,
}


TOGETHER = 4
"""Trajectories of a task that the ordering term sees in one batch."""


Progress = Callable[[int, int, dict[str, float]], None]
"""Called after each optimiser step with (step, steps, metrics)."""


def train(
    init: str | Path,
    trajectories: Iterable[Trajectory],
    out: str | Path,
    settings: TrainingSettings,
    *,
    progress: Progress = lambda step, steps, metrics: None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Train a critic from the causal LM (or the critic) in ``init`` and write the best checkpoint
    by Brier score on held-out tasks to ``out``. One that was stopped is taken up.

    ``stopped`` is asked after each step; when it says so, the state is saved and what was measured
    so far is returned, with ``stopped`` 1.
    Returns: metrics of the kept checkpoint on held-out tasks. Raises: ``CriticInputError`` without
    usable data, or where ``out`` was begun with other settings or data; ``FloatingPointError`` when
    the loss is no longer finite, ``OSError`` when it cannot write (the best checkpoint so far stays
    as it is).
    """
    accelerator = accelerator_of_here()
    set_seed(settings.seed)
    begun = read_card(init) if (Path(init) / CARD).exists() else None
    trained_before = read_trained_tasks(init)
    card = _card(settings, begun)
    renderer = read_renderer(init, card)
    prepared = prepare(trajectories, renderer)
    card.policies = sorted({*card.policies, *prepared.policies})
    training, held_out = split_by_task(prepared.examples, settings.held_out, seed=settings.seed)
    if not training:
        raise CriticInputError(_nothing(prepared, len(held_out)))
    if seen := {example.task_id for example in held_out} & trained_before:
        raise CriticInputError(
            f"{init} was trained on {len(seen)} of the tasks to hold out: give the --held-out and "
            "--seed of its training, or --held-out 0"
        )
    if len({example.reward for example in training}) == 1:
        raise CriticInputError(
            f"all {len(training)} trajectories to train on end alike (reward "
            f"{training[0].reward:g}): a critic learns from successes and failures"
        )
    judged = held_out or training  # a checkpoint is kept by something
    model = _begin(init, begun, card, settings)
    pad = int(model.network.config.pad_token_id)
    plan = plan_steps(
        training,
        epochs=settings.epochs,
        batch_tokens=settings.batch_tokens,
        step_tokens=settings.step_tokens,
        processes=accelerator.num_processes,
        together=TOGETHER if settings.ordering else 1,
        seed=settings.seed,
    )
    optimizer = torch.optim.AdamW(
        _groups(model, settings.weight_decay), lr=settings.lr, betas=(0.9, 0.95)
    )
    warmup = math.ceil(len(plan) * settings.warmup)
    schedule = LambdaLR(optimizer, lambda step: cosine(step, len(plan), warmup))
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    average = _average(accelerator, model, settings)
    run = TrainingRun(
        Path(out),
        accelerator,
        settings,
        card,
        renderer.tokenizer,
        plan,
        tasks={example.task_id for example in training} | trained_before,
        init=str(Path(init).resolve() if Path(init).exists() else init),
        patience=settings.patience,
        honest=bool(held_out),
    )
    with run.open(*([average] if average else [])):
        for number in range(run.step, len(plan)):
            planned = plan[number]
            model.train()
            lam = settings.lam_of(planned.epoch)
            metrics = accumulate(
                accelerator, model, average or model, planned.batches, pad, settings, lam
            )
            if not math.isfinite(metrics["loss"]):
                raise FloatingPointError(f"the loss is {metrics['loss']} at step {number}")
            norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
            if not math.isfinite(norm):
                raise FloatingPointError(f"the gradient's norm is {float(norm)} at step {number}")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            metrics["lr"] = float(schedule.get_last_lr()[0])
            schedule.step()
            if average is not None:
                average.update_parameters(model)
            run.stepped(planned.epoch, metrics)
            progress(run.step, len(plan), metrics)
            if planned.last_of_epoch or run.step % (settings.eval_every or math.inf) == 0:
                found = measure(accelerator, model, judged, settings.batch_tokens, pad)
                run.measured(model, found)
                progress(run.step, len(plan), found)
                if run.gave_up:
                    break
            if _any(accelerator, stopped()):
                run.save()
                return run.best | {"stopped": 1.0}
            if run.step % settings.save_every == 0:
                run.save()
        run.finish()
    return run.best | {
        "trajectories": float(len(prepared.examples)),
        "held_out_trajectories": float(len(held_out)),
        "processes": float(accelerator.num_processes),
        "unrewarded": float(prepared.unrewarded),
        "too_long": float(prepared.too_long),
        "refused": float(prepared.refused),
    }


def cosine(step: int, steps: int, warmup: int) -> float:
    """Share of the rate at a step, from 0: it rises in ``warmup`` steps and falls by a cosine. No
    step is without any.

    >>> [round(cosine(step, 5, 2), 2) for step in range(5)]
    [0.5, 1.0, 1.0, 0.75, 0.25]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def accumulate(
    accelerator: Accelerator,
    model: Any,
    target_model: Any,
    batches: list[list[Example]],
    pad: int,
    settings: TrainingSettings,
    lam: float,
) -> dict[str, float]:
    """Gradients of one optimiser step, whose batches are dealt to the processes. One that gets a
    batch less, or one of fewer passes, takes part with a weight of nothing, since all have to."""
    turns = sum(example.turns for batch in batches for example in batch)
    pairs = sum(_pairs(batch) for batch in batches) if settings.ordering else 0
    step = _Step(accelerator, model, target_model, pad, settings, lam, turns, pairs)
    rank, world = accelerator.process_index, accelerator.num_processes
    total = torch.zeros((), device=accelerator.device)
    for first in range(0, len(batches), world):
        dealt = batches[first : first + world]
        parts = [passes_of(batch, settings.batch_tokens) for batch in dealt]
        takes_part = rank < len(dealt)
        own = rank if takes_part else 0
        last = first + world >= len(batches)
        total += step.backward(dealt[own], parts[own], max(map(len, parts)), takes_part, last)
    return {"loss": float(accelerator.reduce(total, reduction="sum"))}


@dataclass(frozen=True)
class _Step:
    """What the batches of one optimiser step have in common; ``turns`` and ``pairs`` are counted
    over all of them, those of other processes too."""

    accelerator: Accelerator
    model: Any
    target_model: Any
    pad: int
    settings: TrainingSettings
    lam: float
    turns: int
    pairs: int

    def backward(
        self,
        batch: list[Example],
        parts: list[list[Example]],
        passes: int,
        takes_part: bool,
        last: bool,
    ) -> Tensor | float:
        """The loss of a batch, whose gradient is added, by ``passes`` through the network, as many
        as the process of most ``parts`` makes. ``last``: of the step's batches, after which
        processes add their gradients up.

        Several parts are for a trajectory of more windows than ``batch_tokens`` (or those of its
        task): it is read for its values, and then once more in parts, each with the gradient of
        what it reads, while the rest is as it was read before.
        """
        before = self._read_before(parts, passes) if passes > 1 else []
        values = None
        if self.target_model is not self.model:
            values = self._values(self._read_all(self.target_model, parts))
        elif before:
            values = self._values(torch.cat(before))
        found: Tensor | float = 0.0
        for number in range(passes):
            at = number % len(parts)
            weight = float(takes_part and number < len(parts))
            only_here = not last or number < passes - 1
            with self.accelerator.no_sync(self.model) if only_here else nullcontext():
                raw = self._read(self.model, parts[at])
                if before:
                    raw = torch.cat([*before[:at], raw, *before[at + 1 :]])
                loss = self._loss(raw, self._values(raw) if values is None else values, batch)
                # the gradients of all processes are averaged
                self.accelerator.backward(loss * weight * self.accelerator.num_processes)
            if number == 0:
                found = loss.detach() * weight
        return found

    def _read(self, network: Any, examples: list[Example]) -> Tensor:
        batch = collate(examples, self.pad).to(self.accelerator.device)
        with self.accelerator.autocast():
            raw: Tensor = network(batch.ids_BL, batch.at_P2)
        return raw

    @torch.no_grad()
    def _read_all(self, network: Any, parts: list[list[Example]]) -> Tensor:
        return torch.cat([self._read(network, part) for part in parts])

    @torch.no_grad()
    def _read_before(self, parts: list[list[Example]], passes: int) -> list[Tensor]:
        """Of each part; in as many passes as the other processes make."""
        read = [self._read(self.model, parts[n % len(parts)]) for n in range(passes)]
        return read[: len(parts)]

    def _q(self, raw: Tensor) -> Tensor:
        value_model: ValueModel = self.accelerator.unwrap_model(self.model)
        return value_model.q(raw)

    def _values(self, raw: Tensor) -> list[float]:
        found: list[float] = self._q(raw.detach()).tolist()
        return found

    def _loss(self, raw: Tensor, values: list[float], batch: list[Example]) -> Tensor:
        targets = targets_of(values, batch, self.lam, self.settings.gamma)
        loss = LOSSES[self.settings.loss](raw, targets.to(raw.device)).sum() / self.turns
        if not self.pairs:
            return loss
        return loss + self.settings.ordering * _ordering(losses.logits(raw), batch) / self.pairs


def _any(accelerator: Accelerator, told: bool) -> bool:
    """Whether any process was told so: they stop together, or wait for each other for ever."""
    if accelerator.num_processes == 1:
        return told
    count = torch.tensor(float(told), device=accelerator.device)
    return bool(accelerator.reduce(count, reduction="sum") > 0)


def targets_of(values: list[float], examples: list[Example], lam: float, gamma: float) -> Tensor:
    """TD(lambda) targets, (P,), of a batch's turns from their values."""
    targets: list[float] = []
    at = 0
    for example in examples:
        own = values[at : at + example.turns]
        targets += td_lambda(own, example.reward, lam=lam, gamma=gamma)
        at += example.turns
    return torch.tensor(targets)


def _ordering(logits_P: Tensor, examples: list[Example]) -> Tensor:
    ends = torch.tensor([example.turns for example in examples]).cumsum(0) - 1
    reward = torch.tensor([example.reward for example in examples])
    tasks = [example.task_id for example in examples]
    return losses.ordering(logits_P[ends.to(logits_P.device)], reward, tasks).sum()


def _pairs(examples: list[Example]) -> int:
    """How many pairs ``_ordering`` compares."""
    rewards, tasks = [e.reward for e in examples], [e.task_id for e in examples]
    return len(losses.unequal_pairs(rewards, tasks))


def _average(
    accelerator: Accelerator, model: Any, settings: TrainingSettings
) -> AveragedModel | None:
    if settings.target_network == "online":
        return None
    if accelerator.distributed_type == DistributedType.FSDP:
        raise CriticInputError("an averaged target network cannot be sharded: use the online one")
    mixed = get_ema_multi_avg_fn(settings.ema)  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=mixed)


def _begin(
    init: str | Path, begun: CriticCard | None, card: CriticCard, settings: TrainingSettings
) -> ValueModel:
    if begun is not None:
        model, _ = load(init)
        if (begun.activation, begun.labels) != (card.activation, card.labels):
            raise CriticInputError(
                f"{init} has a head of {begun.labels} labels ({begun.activation}); loss "
                f"{settings.loss} needs one of {card.labels} ({card.activation})"
            )
        split = (begun.held_out, begun.split_seed)
        if begun.held_out and split != (card.held_out, card.split_seed):
            raise CriticInputError(
                f"{init} held out {begun.held_out:g} of the tasks by seed {begun.split_seed}: give "
                "the same, or what is held out now is what it was trained on"
            )
    else:
        model = ValueModel(from_causal_lm(init, labels=card.labels), card.activation)
    network = model.network
    if settings.dropout:
        network.config.attention_dropout = settings.dropout
        for module in network.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = settings.dropout
    if settings.gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    freeze_embeddings(network)
    if settings.lora_rank:
        add_lora(network, settings.lora_rank)
    return model


def _groups(model: ValueModel, weight_decay: float) -> list[dict[str, Any]]:
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _card(settings: TrainingSettings, begun: CriticCard | None) -> CriticCard:
    """Of what is trained; a critic that is trained on reads as it did."""
    categorical = settings.loss == "hl_gauss"
    return CriticCard(
        activation="expectation" if categorical else "sigmoid",
        labels=settings.bins if categorical else 1,
        lam=settings.lam,
        gamma=settings.gamma,
        policies=begun.policies if begun else [],
        policy_in_prompt=settings.policy_in_prompt or bool(begun and begun.policy_in_prompt),
        max_tokens=settings.max_tokens or (begun.max_tokens if begun else None),
        held_out=settings.held_out,
        split_seed=settings.seed,
    )


def _nothing(prepared: Prepared, held_out: int) -> str:
    return (
        f"nothing to train on: {prepared.seen} trajectories, "
        f"{prepared.unrewarded} without a reward, {prepared.too_long} too long, "
        f"{prepared.refused} refused by the chat template, {held_out} held out"
    )
