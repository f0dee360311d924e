"""A critic with random weights, and histories of wanted lengths for it, both functions of a seed.
Knows nothing of what is measured on them.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

from critic.checkpoint import CriticCard, write_card
from examples.bugfix.experiment import CHECKPOINTS
from pilotfish import Candidate, Decision, Message, Step, Trajectory


class Shape(NamedTuple):
    """Of a Qwen3 network."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int


SHAPES = {
    "tiny": Shape(64, 128, 2, 2, 1, 32, 2048),
    "16m": Shape(640, 3584, 2, 2, 1, 64, 2048),
    "16m-as-1.5b": Shape(640, 3584, 2, 4, 2, 64, 2048),
    "0.6b": Shape(1024, 3072, 28, 16, 8, 128, 151_936),
}
"""In a small network of usual proportions, attention is most of the work behind 6,000 tokens; in
large ones it is little. So the small ones here are wide and have few heads: attention is 19 % of
the operations of ``16m``, as in Llama 3.1's 8 B, and 30 % of those of ``16m-as-1.5b``, as in
Qwen2.5's 1.5 B. ``0.6b`` is Qwen3's own, where it is 63 %."""
POSITIONS = 8192


def make_critic(folder: Path, shape: Shape, *, seed: int = 0) -> Path:
    """Write a critic with random weights to ``folder``."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / "critic")
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=POSITIONS,
        num_labels=1,
        problem_type="regression",
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    Qwen3ForSequenceClassification(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_card(folder, CriticCard())
    return folder


class Writer:
    """Writes messages of about as many tokens as are wanted."""

    def __init__(self, seed: int = 0) -> None:
        tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / "critic")
        words = {piece[1:] for piece in tokenizer.get_vocab() if piece.startswith("Ġ")}
        self._words = sorted(w for w in words if len(tokenizer.tokenize(f" {w}")) == 1 and w)
        self._random = random.Random(seed)

    def text(self, tokens: float) -> str:
        return " ".join(self._random.choices(self._words, k=max(1, round(tokens))))

    def around(self, tokens: int) -> float:
        """A length about ``tokens``, now and then much longer, as lengths are."""
        return tokens * self._random.lognormvariate(0.0, 0.4)

    def history(self, turns: int, *, first: int, turn: int, observation: int) -> list[Message]:
        """A state after ``turns``, of messages of exactly these lengths."""
        history = [Message.system(self.text(first / 2)), Message.user(self.text(first / 2))]
        for _ in range(turns):
            history.append(Message.assistant(self.text(turn)))
            history.append(Message.user(self.text(observation)))
        return history

    def trajectory(self, number: int, *, turn: int = 40, observation: int = 100) -> Trajectory:
        """A finished one of eight to twelve turns."""
        turns = self._random.randint(8, 12)
        prefix = [Message.system(self.text(60)), Message.user(self.text(self.around(120)))]
        steps = []
        for at in range(turns):
            said = Message.assistant(self.text(self.around(turn)))
            taken = Decision(
                candidates=[Candidate(index=0, message=said)],
                requested=1,
                chosen=0,
                reason="only",
            )
            shown = [Message.user(self.text(self.around(observation)))] if at < turns - 1 else []
            steps.append(Step(decision=taken, replies=shown))
        return Trajectory(
            task_id=f"t{number}",
            policy="p",
            prefix=prefix,
            steps=steps,
            exit_status="Submitted",
            reward=float(self._random.random() < 0.5),
        )
