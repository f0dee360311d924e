"""A chat model that reasons, and votes: Q is the share of GOOD among m samples of its verdict.
Knows nothing of the prompt."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from search.contracts import Score
from search.errors import CriticError
from service.critics.all_of import all_of
from service.critics.asking import VERDICT, Prompt
from service.critics.judge import Judge
from service.settings import ReasoningCriticSettings

_VERDICT = re.compile(r"\bVERDICT\W{0,8}(GOOD|BAD)\W{0,20}\Z", re.IGNORECASE)


class ReasoningCritic(Judge):
    """``spread`` is what the votes that were understood leave open: see ``tally``."""

    def __init__(self, name: str, settings: ReasoningCriticSettings) -> None:
        super().__init__(name, settings, VERDICT)
        self.settings = settings

    async def judge(self, prompt: Prompt) -> Score:
        texts = await self._samples(prompt)
        votes = [vote for text in texts if (vote := verdict(text)) is not None]
        if not votes:
            raise CriticError(
                f"the judge {self.name} gave no verdict in {len(texts)} answers; one of them ends:"
                f" {next(filter(None, texts), '')[-200:]!r}"
            )
        return tally(votes)

    async def _samples(self, prompt: Prompt) -> list[str]:
        fields: dict[str, Any] = {
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
        }
        count = self.settings.votes
        if self.settings.n:
            return await self.complete(prompt, _texts, n=count, **fields)
        seed = self.settings.extra.get("seed")
        seeds = [{"seed": seed + i} if isinstance(seed, int) else {} for i in range(count)]
        answers = await all_of(self.complete(prompt, _texts, over=own, **fields) for own in seeds)
        return [text for texts in answers for text in texts]


def verdict(text: str) -> bool | None:
    """Whether it ends with GOOD; ``None`` where it does not end with a verdict: one that is talked
    about on the way is none.

    >>> verdict("VERDICT: BAD? No: it fixes the cause.\\n**Verdict: GOOD**")
    True
    """
    found = _VERDICT.search(text)
    return found[1].upper() == "GOOD" if found else None


def tally(votes: Sequence[bool]) -> Score:
    """The share of GOOD; its spread is the standard deviation of the share's posterior under a flat
    prior, a Beta distribution: one vote alone says little, and so do few that agree.

    >>> tally([True, True])
    Score(q=1.0, spread=0.19364916731037085)
    """
    good, bad = sum(votes) + 1, len(votes) - sum(votes) + 1
    total = good + bad
    spread = math.sqrt(good * bad / (total**2 * (total + 1)))
    return Score(sum(votes) / len(votes), spread)


def _texts(choices: list[Any]) -> list[str]:
    """What each choice says; one that was cut short has said nothing. Raises: ``ValueError`` and
    its like."""
    texts = [
        "" if choice.get("finish_reason") == "length" else choice["message"].get("content") or ""
        for choice in choices
    ]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("choices without text")
    return texts
