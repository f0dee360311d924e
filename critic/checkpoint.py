"""A critic on disk: a stock Hugging Face sequence classification checkpoint, and ``critic.json``
beside it. Knows nothing of training or serving."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open

from critic.calibration import Calibration
from critic.errors import CriticInputError
from critic.files import write_whole
from critic.logits import FEWEST_BINS, bin_values, sigmoid, softmax
from critic.rendering import RENDERING_VERSION, Renderer
from critic.splitting import is_held_out

CARD = "critic.json"
TRAINED_TASKS = "trained_tasks.json"
HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
"""What transformers' sequence classifiers call their head."""


class CriticCard(BaseModel):
    """What a reader of the checkpoint must know (``critic.json``)."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    version: Literal[1] = 1
    rendering_version: int = RENDERING_VERSION
    activation: Literal["sigmoid", "identity", "expectation"] = "sigmoid"
    """From the head's logits to Q: of one, by a sigmoid or cut to [0, 1]; of several, which are
    equal bins, the mean of their values (``critic.logits``) under a softmax."""
    labels: int = Field(default=1, ge=1)
    """Logits of the head."""
    calibration: Calibration | None = None
    """From the model's Q to a probability, fitted on tasks that it was not trained on."""
    lam: float = Field(default=0.7, ge=0, le=1)
    gamma: float = Field(default=1.0, ge=0, le=1)
    policies: list[str] = Field(default_factory=list)
    """Names of the policies whose trajectories it was trained on."""
    policy_in_prompt: bool = False
    max_tokens: int | None = None
    """The longest history, tokens."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Share of the tasks of its data that it was not trained on."""
    split_seed: int = 0
    failed_q: float | None = Field(default=None, ge=0, le=1)
    """Mean Q at the last turn of failures of tasks that it was not trained on: of more than this
    under lookahead, the argmax has found its errors."""

    @model_validator(mode="after")
    def _has_bins(self) -> Self:
        if self.activation == "expectation" and self.labels < FEWEST_BINS:
            raise ValueError(f"a categorical head has at least {FEWEST_BINS} labels")
        return self

    def held_out_task(self, task_id: str) -> bool:
        """Whether training held this task out, if it was among its data."""
        return is_held_out(task_id, self.held_out, seed=self.split_seed)

    def q(self, logits: Sequence[float]) -> float:
        """Q in [0, 1] of the head's logits."""
        found = self.uncalibrated_q(logits)
        return found if self.calibration is None else self.calibration.apply(found)

    def uncalibrated_q(self, logits: Sequence[float]) -> float:
        """The model's own Q, which it was trained to give."""
        if self.activation == "expectation":
            values = bin_values(len(logits))
            return sum(p * v for p, v in zip(softmax(logits), values, strict=True))
        [raw] = logits
        if self.activation == "sigmoid":
            return sigmoid(raw)
        return min(1.0, max(0.0, raw))


def read_card(folder: str | Path) -> CriticCard:
    """The card of a critic's folder, its head checked.

    Raises: ``CriticInputError`` if this is no critic: no ``config.json``, another architecture than
    sequence classification, more than one label, a card of another rendering.
    """
    folder = Path(folder)
    config = _read_json(folder / "config.json")
    architectures = config.get("architectures") or []
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise CriticInputError(
            f"{folder} is {', '.join(architectures) or 'of no architecture'}; a critic is a "
            "sequence classification checkpoint (critic.model.from_causal_lm makes one)"
        )
    try:
        card = CriticCard.model_validate(_read_json(folder / CARD))
    except ValidationError as error:
        raise CriticInputError(f"{folder / CARD}: {error}") from error
    labels = len(config.get("id2label") or {0: "", 1: ""})
    if labels != card.labels:
        wanted = "one" if card.labels == 1 else f"{card.labels}, by its critic.json"
        raise CriticInputError(f"{folder} has a head of {labels} labels; a critic's has {wanted}")
    _check_head(folder, card.labels)
    if card.rendering_version != RENDERING_VERSION:
        raise CriticInputError(
            f"{folder} was trained on rendering {card.rendering_version}; this is "
            f"{RENDERING_VERSION}: train it again"
        )
    return card


def read_serving_renderer(
    folder: str | Path, card: CriticCard, policy: str | None = None
) -> Renderer:
    """The renderer for callers who name no policy: they mean ``policy``.

    Raises: ``CriticInputError`` where the policy's name is in the prompt and it is not known which.
    """
    renderer = read_renderer(folder, card)
    if policy is not None:
        renderer.policy = policy
    elif card.policy_in_prompt and len(card.policies) != 1:
        known = ", ".join(card.policies) or "none"
        raise CriticInputError(
            f"{folder} reads the policy's name and was trained on several ({known}): set the "
            "critic's policy to the one that it judges"
        )
    return renderer


def read_renderer(folder: str | Path, card: CriticCard) -> Renderer:
    """The renderer that belongs to a critic's folder. Where the policy's name is in the prompt and
    the critic knows one policy only, a caller who names none means that one."""
    tokenizer = read_tokenizer(folder)
    config = Path(folder) / "config.json"
    positions = _read_json(config).get("max_position_embeddings") if config.exists() else None
    only = card.policies[0] if len(card.policies) == 1 else "unknown"
    return Renderer(
        tokenizer,
        max_tokens=card.max_tokens or positions,
        policy_in_prompt=card.policy_in_prompt,
        policy=only,
    )


def read_tokenizer(source: str | Path) -> Any:
    """The tokenizer of a folder, or of that name on the model hub.

    Raises: ``CriticInputError`` where there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(source), local_files_only=Path(source).is_dir())
    except (OSError, ValueError) as error:
        raise CriticInputError(f"{source} has no tokenizer that can be read: {error}") from error


def write_card(folder: str | Path, card: CriticCard) -> None:
    """Write ``critic.json``, whole or not at all."""
    write_whole(Path(folder) / CARD, card.model_dump_json(indent=2) + "\n")


def write_trained_tasks(folder: str | Path, tasks: Iterable[str]) -> None:
    """Write down the tasks that a critic was trained on: others measure it."""
    text = json.dumps(sorted(set(tasks)), indent=0)
    (Path(folder) / TRAINED_TASKS).write_text(text + "\n", encoding="utf-8")


def read_trained_tasks(folder: str | Path) -> set[str]:
    """The tasks that a critic was trained on; none where it is not known."""
    path = Path(folder) / TRAINED_TASKS
    return set(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else set()


def _check_head(folder: Path, labels: int) -> None:
    """The weights hold the head that the configuration promises: whoever loads them without it
    gets one of random numbers, and scores that look like any others."""
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        try:
            with safe_open(file, framework="numpy") as weights:
                for name in weights.keys():  # noqa: SIM118 - it is no dict
                    if name in HEADS:
                        rows = weights.get_slice(name).get_shape()[0]
                        if rows != labels:
                            raise CriticInputError(
                                f"{folder} has a head of {rows} labels; its card says {labels}"
                            )
                        return
        except SafetensorError as error:
            raise CriticInputError(f"{file} cannot be read: {error}") from error
    if files:  # else they are where it is served
        raise CriticInputError(f"{folder} has no head: its weights hold none of {', '.join(HEADS)}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CriticInputError(f"{path.parent} is no critic: it has no {path.name}") from error
    except ValueError as error:
        raise CriticInputError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CriticInputError(f"{path} is not a JSON object")
    return content
