"""What training a critic costs: one pass over a trajectory beside a sequence for every action, and
the whole loop beside a bare forward and backward. Knows nothing of scoring.

Both sides of a ratio are measured in turn, and a ratio is one of medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from critic.checkpoint import read_renderer
from critic.data import Example, by_length, example_of, plan_steps, prepare
from critic.devices import accelerator_of_here
from critic.model import freeze_embeddings, load
from critic.rendering import Rendered
from critic.settings import TrainingSettings
from critic.training import accumulate, train
from pilotfish import Trajectory


def by_action(example: Example) -> list[Example]:
    """A sequence of its own for every turn. Each has the trajectory's reward as its target, as with
    lambda 1 every turn of the one pass has."""
    found = []
    for ids, ends in zip(example.ids, example.turn_ends, strict=True):
        rows = [Rendered(ids[: end + 1].tolist(), [end]) for end in ends]
        found += [example_of([row], example.task_id, example.reward) for row in rows]
    return found


def measure_one_pass(
    folder: Path, trajectories: list[Trajectory], batch_tokens: int, rounds: int
) -> dict[str, float]:
    """Seconds of reading the same trajectories forward and backward in either way."""
    accelerator = accelerator_of_here()
    model, card = load(folder)
    freeze_embeddings(model.network)
    model = accelerator.prepare(model.train())
    examples = prepare(trajectories, read_renderer(folder, card)).examples
    apart = [one for example in examples for one in by_action(example)]
    ways = {
        "one_pass": by_length(examples, batch_tokens, seed=None),
        "by_action": by_length(apart, batch_tokens, seed=None),
    }
    pad = int(accelerator.unwrap_model(model).network.config.pad_token_id)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    losses: dict[str, float] = {}

    def read(batches: list[list[Example]]) -> float:
        settings = TrainingSettings(lam=1.0, batch_tokens=batch_tokens)
        found = accumulate(accelerator, model, model, batches, pad, settings, settings.lam)
        model.zero_grad(set_to_none=True)
        return found["loss"]

    read(ways["one_pass"][:1])  # warms up
    for _ in range(rounds):
        for way, batches in ways.items():
            began = time.perf_counter()
            losses[way] = read(batches)
            seconds[way].append(time.perf_counter() - began)
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    return {
        "turns_of_a_trajectory": len(apart) / len(examples),
        "one_pass_seconds": medians["one_pass"],
        "by_action_seconds": medians["by_action"],
        "one_pass_loss": losses["one_pass"],
        "by_action_loss": losses["by_action"],
        "loss_difference": abs(1 - losses["one_pass"] / losses["by_action"]),
        "times_faster": medians["by_action"] / medians["one_pass"],
    }


class Beside:
    """Hears of every step of a training, and reads the same tokens bare before the next."""

    def __init__(self, bare: Callable[[Tensor], None], steps: list[list[Example]]) -> None:
        self._bare, self._steps = bare, steps
        self.trained: list[float] = []
        self.bare: list[float] = []
        """Real tokens a second, of each step."""
        self._since = time.perf_counter()

    def __call__(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        if "loss" not in metrics:
            return
        trained = time.perf_counter() - self._since
        read = self._steps[step - 1]
        self.trained.append(sum(map(_tokens, read)) / trained)
        rows = packed(read)
        began = time.perf_counter()
        self._bare(rows)
        self.bare.append(rows.numel() / (time.perf_counter() - began))
        self._since = time.perf_counter()


def measure_loop(
    folder: Path, trajectories: list[Trajectory], out: Path, batch_tokens: int, steps: int
) -> dict[str, float]:
    """Real tokens a second of ``critic.training.train``, all of it, and of the bare network."""
    settings = TrainingSettings(batch_tokens=batch_tokens, held_out=0, epochs=1)
    network, card = _bare_network(folder)
    examples = prepare(trajectories, read_renderer(folder, card)).examples
    plan = plan_steps(
        examples, epochs=1, batch_tokens=batch_tokens, step_tokens=None, seed=settings.seed
    )
    if len(plan) <= steps + 1:
        raise ValueError(f"{len(plan)} steps come of these trajectories; want {steps + 2}")
    planned = [[example for batch in step.batches for example in batch] for step in plan]
    beside = Beside(lambda rows: _forward_and_backward(network, rows), planned)
    train(folder, trajectories, out, settings, progress=beside,
          stopped=lambda: len(beside.trained) > steps)  # fmt: skip
    trained, bare = (statistics.median(values[1:]) for values in (beside.trained, beside.bare))
    padded = sum(len(step) * max(e.length for e in step) for step in planned)
    mean = sum(map(_tokens, examples)) / len(examples)
    return {
        "steps": float(steps),
        "mean_length": mean,
        "padding": 1 - sum(map(_tokens, examples)) / padded,
        "tokens_per_second": trained,
        "bare_tokens_per_second": bare,
        "share_of_bare": trained / bare,
        "flops_per_second": trained * training_flops(network, mean),
    }


def packed(examples: list[Example]) -> Tensor:
    """The examples' tokens one after another, in as many rows of equal length: nothing is
    padding, and as far is read back as in the examples themselves."""
    rows = [row for example in examples for row in example.ids]
    tokens = np.concatenate(rows).astype(np.int64)
    length = len(tokens) // len(rows)
    return torch.from_numpy(tokens[: length * len(rows)].reshape(len(rows), length))


def training_flops(network: Any, length: float) -> float:
    """Floating point operations that a token of sequences of this length costs, forward and
    backward: two for each weight and each product of causal attention, three times."""
    config = network.config
    weights = sum(p.numel() for p in network.parameters())
    weights -= network.get_input_embeddings().weight.numel()
    attention = config.num_hidden_layers * config.num_attention_heads * config.head_dim * length
    return float(3 * (2 * weights + 2 * attention))


def _bare_network(folder: Path) -> tuple[Any, Any]:
    model, card = load(folder)
    freeze_embeddings(model.network)
    return model.network.to(accelerator_of_here().device).train(), card


def _forward_and_backward(network: Any, rows: Tensor) -> None:
    device = network.device
    with torch.autocast(device.type, dtype=torch.bfloat16):
        hidden = network.base_model(input_ids=rows.to(device), use_cache=False).last_hidden_state
        loss = network.score(hidden[:, -1]).float().mean()
    loss.backward()
    network.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize()


def _tokens(example: Example) -> int:
    return sum(map(len, example.ids))
