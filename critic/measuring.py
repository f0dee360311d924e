"""Q of a model over many examples, and how good it is. Knows nothing of training."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from critic.data import Example, by_length, collate, windows_of
from critic.evaluation import auc, brier, ece, within_task


@torch.no_grad()
def values_of(
    accelerator: Accelerator, model: Any, examples: list[Example], batch_tokens: int, pad: int
) -> list[list[float]]:
    """Q at every turn of each example, whose windows are read apart. The batches are dealt to the
    processes; all have all."""
    model.eval()
    windows = windows_of(examples)
    numbers = {id(window): number for number, window in enumerate(windows)}
    groups = by_length(windows, batch_tokens, seed=None)
    rank, world = accelerator.process_index, accelerator.num_processes
    own: list[tuple[int, list[float]]] = []
    for at in range(rank, -(-len(groups) // world) * world, world):
        # with a sharded model all have to take part, so that who has none reads the first again
        group = groups[at] if at < len(groups) else groups[0]
        batch = collate(group, pad).to(accelerator.device)
        with accelerator.autocast():
            raw = model(batch.ids_BL, batch.at_P2)
        values = iter(accelerator.unwrap_model(model).q(raw).tolist())
        own += [(numbers[id(e)], [next(values) for _ in range(e.turns)]) for e in group]
    every = dict(gather_object(own)) if world > 1 else dict(own)
    found = iter(every[number] for number in range(len(windows)))
    return [[q for _ in range(e.rows) for q in next(found)] for e in examples]


def measure(
    accelerator: Accelerator, model: Any, examples: list[Example], batch_tokens: int, pad: int
) -> dict[str, float]:
    """Metrics of Q: at the last turn (``_last``: what selection uses) and at all turns."""
    found = values_of(accelerator, model, examples, batch_tokens, pad)
    return metrics_of(found, examples)


def metrics_of(values: list[list[float]], examples: list[Example]) -> dict[str, float]:
    """As ``measure``, of the Q at every turn of each example."""
    last = [own[-1] for own in values]
    won = [example.reward for example in examples]
    every = [(q, e.reward) for own, e in zip(values, examples, strict=True) for q in own]
    all_q, all_won = zip(*every, strict=True)
    return {
        "auc_last": auc(last, [w > 0.5 for w in won]),
        "auc_all": auc(all_q, [w > 0.5 for w in all_won]),
        "within_task_last": within_task([e.task_id for e in examples], last, won),
        "brier_last": brier(last, won),
        "brier_all": brier(all_q, all_won),
        "ece_last": ece(last, won),
        "failed_q_last": _mean([q for q, w in zip(last, won, strict=True) if w <= 0.5]),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
