"""The probability that a chat model says YES: P(yes) / (P(yes) + P(no)), read off the
log-probabilities of its first token. Knows nothing of the prompt."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

from search.contracts import Score
from search.errors import CriticError
from service.critics.asking import YES_NO, Prompt
from service.critics.judge import Judge
from service.settings import YesNoCriticSettings


class YesNoCritic(Judge):
    """One number from one forward pass: it has no spread."""

    def __init__(self, name: str, settings: YesNoCriticSettings) -> None:
        super().__init__(name, settings, YES_NO)
        self.settings = settings

    async def judge(self, prompt: Prompt) -> Score:
        top = await self.complete(
            prompt,
            _top_of_first_token,
            max_tokens=self.settings.max_tokens,
            temperature=0,
            logprobs=True,
            top_logprobs=self.settings.top_logprobs,
        )
        found = yes_share(top, yes=self.settings.yes, no=self.settings.no)
        if found is None or found[1] < self.settings.min_mass:
            mass = 0.0 if found is None else found[1]
            shown = ", ".join(f"{token!r} {math.exp(logprob):.2g}" for token, logprob in top[:5])
            raise CriticError(
                f"the judge {self.name} answers neither YES nor NO (together {mass:.2g}; min_mass "
                f"is {self.settings.min_mass:g}); its likeliest tokens: {shown or 'none'}"
            )
        return Score(found[0])


def yes_share(
    top: Iterable[tuple[str, float]], *, yes: Collection[str], no: Collection[str]
) -> tuple[float, float] | None:
    """P(yes) / (P(yes) + P(no)), and P(yes) + P(no), of tokens with their log-probabilities;
    ``None`` where there is neither. A token counts as a word in whatever case, with whatever space
    around it.

    >>> yes_share([(" Yes", -1.0), ("NO", -1.0), ("maybe", -0.1)], yes=["yes"], no=["no"])[0]
    0.5
    """
    said = [(_word(token), logprob) for token, logprob in top]
    p_yes = sum(math.exp(logprob) for word, logprob in said if word in map(_word, yes))
    p_no = sum(math.exp(logprob) for word, logprob in said if word in map(_word, no))
    mass = p_yes + p_no
    return (p_yes / mass, mass) if mass > 0 else None


def _word(token: str) -> str:
    return token.strip(
        " \t\n\u0120\u2581"
    ).casefold()  # the last two stand for a space in vocabularies


def _top_of_first_token(choices: list[Any]) -> list[tuple[str, float]]:
    """Tokens that could have stood where the answer begins, likeliest first, each with its
    log-probability. The one that was said is among them, also where an endpoint does not list it.

    Raises: ``ValueError`` and its like.
    """
    first = choices[0]["logprobs"]["content"][0]
    listed = first["top_logprobs"]
    said = [] if any(entry["token"] == first["token"] for entry in listed) else [first]
    top = [(str(entry["token"]), float(entry["logprob"])) for entry in [*listed, *said]]
    if any(math.isnan(logprob) or logprob > 0.01 for _, logprob in top):
        raise ValueError("a log-probability that is none")
    return sorted(top, key=lambda one: -one[1])
