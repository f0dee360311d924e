"""What a training is told. Knows nothing of torch, so that a command line can say it at once."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from critic.logits import FEWEST_BINS

Loss = Literal["bce", "l2", "hl_gauss"]


class TrainingSettings(BaseModel):
    """One training."""

    model_config = ConfigDict(extra="forbid")

    lam: float = Field(default=0.7, ge=0, le=1)
    """Lambda of the targets; 1 is Monte Carlo, with ``gamma`` below 1 the discounted one."""
    warm_lam: float | None = Field(default=1.0, ge=0, le=1)
    """Lambda of the first pass of several; ``None``: ``lam``."""
    gamma: float = Field(default=1.0, ge=0, le=1)
    target_network: Literal["online", "ema"] = "online"
    ema: float = Field(default=0.99, ge=0, lt=1)
    """Share that the averaged target network keeps of itself each step."""
    loss: Loss = "bce"
    bins: int = Field(default=51, ge=FEWEST_BINS)
    """Of the categorical head of ``hl_gauss``."""
    ordering: float = Field(default=0.0, ge=0)
    """Weight of the term that orders trajectories of one task by their outcome."""
    epochs: int = Field(default=3, ge=1)
    lr: float = Field(default=3e-4, gt=0)
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps."""
    weight_decay: float = 0.1
    batch_tokens: int = Field(default=16_384, ge=1)
    """Tokens of one forward pass, padding counted."""
    step_tokens: int | None = Field(default=None, ge=1)
    """Tokens of one optimiser step, at least; where it is not given, a batch of each process."""
    max_tokens: int | None = Field(default=None, ge=16)
    """Tokens that the critic reads; of longer histories, a window (``critic.rendering``)."""
    held_out: float = Field(default=0.1, ge=0, lt=1)
    """Share of the tasks."""
    eval_every: int | None = Field(default=None, ge=1)
    """Steps; each pass where it is not given."""
    patience: int | None = Field(default=None, ge=1)
    """Evaluations without a better one after which it stops."""
    save_every: int = Field(default=500, ge=1)
    """Steps between two places at which it can be taken up."""
    lora_rank: int = Field(default=0, ge=0)
    """0 trains all weights but the embeddings; else adapters of this rank, and the head."""
    gradient_checkpointing: bool = False
    policy_in_prompt: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of attention."""
    seed: int = 0

    def lam_of(self, epoch: int) -> float:
        """Lambda of this pass, from 0."""
        if self.warm_lam is not None and epoch == 0 and self.epochs > 1:
            return self.warm_lam
        return self.lam
