"""Scoring in process with torch: for small critics, and for tests. Knows nothing of servers.

What was read of a state is kept, so that its candidates, and the states that follow it, cost only
their own tokens. The candidates of a state are read in one pass, side by side behind it: each sees
the state and itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from critic.checkpoint import read_renderer
from critic.data import collate, example_of, passes_of
from critic.model import load
from critic.rendering import Rendered
from pilotfish import Message

PASS_TOKENS = 16_384
"""Of one forward pass over windows."""
KEPT_STATES = 32
KEPT_TOKENS = 65_536
"""Of all kept states together: 1.6 GB in float32 for a critic of 0.5 B parameters (24 layers, 2
heads of 64)."""


@dataclass(eq=False)
class _Read:
    """A state that was read, and the keys and values of its tokens."""

    ids: NDArray[np.int32]
    cache: Any


class Scorer:
    """A critic loaded into this process. Not for several threads at once."""

    def __init__(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        """``device``: the GPU, where there is one. Raises: ``CriticInputError`` if ``folder`` is no
        critic."""
        self.model, self.card = load(folder, dtype=dtype)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model.to(self.device)
        self.renderer = read_renderer(folder, self.card)
        self._side_by_side = _attends_to_all(self.model.network.config)
        self._kept: list[_Read] = []
        """Least lately used first."""

    def warm(self, state: Sequence[Message], *, policy: str | None = None) -> None:
        """Read the state ahead of its candidates. Raises: ``CriticInputError``."""
        if not self._side_by_side:
            return
        self._read(self.renderer.render_state(state, policy=policy))

    def score(
        self, state: Sequence[Message], actions: Sequence[Message], *, policy: str | None = None
    ) -> list[float]:
        """Q in [0, 1] of each action in this state. Raises: ``CriticInputError``."""
        if not actions:
            return []
        first = self.renderer.render_state(state, policy=policy)
        rows = [self.renderer.render_action(state, action, policy=policy) for action in actions]
        if not self._side_by_side or not all(row[: len(first)] == first for row in rows):
            # or a long action moved the window
            return self._values([Rendered(row, [len(row) - 1]) for row in rows])
        return self._behind(self._read(first), [row[len(first) :] for row in rows])

    def score_turns(self, messages: Sequence[Message], *, policy: str | None = None) -> list[float]:
        """Q at every agent turn, oldest first. Raises: ``CriticInputError``."""
        windows = self.renderer.windows(messages, policy=policy)
        return self._values(windows) if windows else []

    @torch.inference_mode()
    def _values(self, windows: list[Rendered]) -> list[float]:
        pad = int(self.model.network.config.pad_token_id)
        logits: list[list[float]] = []
        for some in passes_of([example_of(windows)], PASS_TOKENS):
            batch = collate(some, pad).to(self.device)
            logits += self.model(batch.ids_BL, batch.at_P2).tolist()
        return [self.card.q(one) for one in logits]

    @torch.inference_mode()
    def _read(self, state: list[int]) -> _Read:
        """The state, of which only what is new is computed."""
        from transformers import DynamicCache

        ids = np.asarray(state, dtype=np.int32)
        kept = max(self._kept, key=lambda read: _begins(ids, read.ids), default=None)
        if kept is not None and _begins(ids, kept.ids):
            self._kept.remove(kept)
        else:
            kept = _Read(ids[:0], DynamicCache())
        new = torch.from_numpy(ids[len(kept.ids) :].astype(np.int64)).unsqueeze(0).to(self.device)
        if new.numel():
            self.model.network.base_model(input_ids=new, past_key_values=kept.cache, use_cache=True)
            kept.ids = ids
        self._kept.append(kept)
        while len(self._kept) > 1 and (
            len(self._kept) > KEPT_STATES or sum(len(k.ids) for k in self._kept) > KEPT_TOKENS
        ):
            self._kept.pop(0)
        return kept

    @torch.inference_mode()
    def _behind(self, read: _Read, suffixes: list[list[int]]) -> list[float]:
        """Q at the end of each of ``suffixes``, all in one pass behind the state."""
        known = len(read.ids)
        lengths = [len(suffix) for suffix in suffixes]
        tokens = [token for suffix in suffixes for token in suffix]
        places = [known + i for n in lengths for i in range(n)]
        try:
            hidden = self.model.network.base_model(
                input_ids=torch.tensor([tokens], device=self.device),
                position_ids=torch.tensor([places], device=self.device),
                attention_mask=_side_by_side(known, lengths, self.model.network),
                past_key_values=read.cache,
                use_cache=True,
            ).last_hidden_state[0]
        except BaseException:
            self._kept.remove(read)  # some of its layers may have read the candidates
            raise
        read.cache.crop(-len(tokens))
        ends = torch.tensor(lengths, device=self.device).cumsum(0) - 1
        raw = self.model.network.score(hidden[ends]).float()
        return [self.card.q(logits) for logits in raw.tolist()]


def _attends_to_all(config: Any) -> bool:
    """Whether every layer sees all that is before it: of others (sliding windows, recurrent ones)
    candidates cannot be read side by side."""
    config = config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) == {"full_attention"}
    return not getattr(config, "sliding_window", None)


def _begins(ids: NDArray[np.int32], with_ids: NDArray[np.int32]) -> int:
    """How many tokens of ``with_ids`` ``ids`` begins with, if with all of them; else 0."""
    n = len(with_ids)
    return n if n <= len(ids) and np.array_equal(ids[:n], with_ids) else 0


def _side_by_side(known: int, lengths: list[int], network: Any) -> Tensor:
    """The mask, (1, 1, new, known + new), of rows that all see what is known and, causally,
    themselves."""
    new = sum(lengths)
    hidden = torch.finfo(network.dtype).min
    mask = torch.full((new, known + new), hidden, dtype=network.dtype, device=network.device)
    mask[:, :known] = 0
    at = 0
    for n in lengths:
        own = mask[at : at + n, known + at : known + at + n]
        own.triu_(diagonal=1)
        at += n
    return mask[None, None]
