"""What scoring K candidates costs early and late in a history, and what it would without reuse of
prefixes: in process with torch, and on vLLM as the service asks it. Knows nothing of training.

Every history is a new one and so is every candidate, so that nothing is known of either but what
was read ahead (``warm``), which in serving is done while the policy decodes.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from pydantic import BaseModel, ConfigDict

from benchmarks.synthetic import POSITIONS, Writer
from critic.rendering import Renderer
from critic.scoring import Scorer
from pilotfish import Message
from service.critics.vllm import VllmCritic
from service.local.vllm_server import VllmSettings, vllm_server
from service.settings import VllmCriticSettings


class ScoringPlan(BaseModel):
    """What is scored, and how often."""

    model_config = ConfigDict(extra="forbid")

    k: int = 8
    early: int = 3
    late: int = 30
    """Turns."""
    tokens: int = 6000
    """Of the history at the late turn."""
    histories: int = 5
    repeats: int = 6
    """Of what is fast, in each history."""
    fresh: int = 1
    """Histories of which it is measured without reuse."""


class Scoring(Protocol):
    """A critic that is measured."""

    renderer: Renderer

    async def warm(self, state: Sequence[Message]) -> object: ...
    async def score(self, state: Sequence[Message], actions: Sequence[Message]) -> object:
        """Of one state, all at once."""
        ...


class InProcess:
    """``critic.scoring``."""

    def __init__(self, folder: Path, device: str) -> None:
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        self._scorer = Scorer(folder, dtype=dtype, device=device)
        self.renderer = self._scorer.renderer

    async def warm(self, state: Sequence[Message]) -> None:
        self._scorer.warm(state)

    async def score(self, state: Sequence[Message], actions: Sequence[Message]) -> None:
        self._scorer.score(state, actions)


class OnVllm:
    """``service.critics.vllm``, asked as lookahead asks it: every candidate on its own."""

    def __init__(self, critic: VllmCritic) -> None:
        self._critic, self.renderer = critic, critic.renderer

    async def warm(self, state: Sequence[Message]) -> None:
        await self._critic.warm(state)

    async def score(self, state: Sequence[Message], actions: Sequence[Message]) -> None:
        await asyncio.gather(*(self._critic.score(state, [action]) for action in actions))


async def measure_scoring(critic: Scoring, plan: ScoringPlan) -> dict[str, float]:
    """Medians of seconds, and their ratios."""
    writer = Writer()
    await _measure_history(critic, plan, writer, fresh=False)  # warms up
    seconds: dict[str, list[float]] = {}
    for number in range(plan.histories):
        found = await _measure_history(critic, plan, writer, fresh=number < plan.fresh)
        for kind, values in found.items():
            seconds.setdefault(kind, []).extend(values)
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    state = _history(plan, writer)
    actions = _actions(plan, writer)
    own = [
        len(critic.renderer.render_action(state, action)) - len(critic.renderer.render_state(state))
        for action in actions
    ]
    known = len(critic.renderer.render_state(state))
    return {
        **{f"{kind}_seconds": value for kind, value in medians.items()},
        "history_tokens": float(known),
        "candidates_tokens": float(sum(own)),
        "late_to_early": medians["late"] / medians["early"],
        "fresh_to_late": medians["fresh"] / medians["late"],
        "candidate_tokens_per_second": sum(own) / medians["late"],
        "fresh_tokens_per_second": (plan.k * known + sum(own)) / medians["fresh"],
    }


async def _measure_history(
    critic: Scoring, plan: ScoringPlan, writer: Writer, *, fresh: bool
) -> dict[str, list[float]]:
    late = _history(plan, writer)
    early = late[: 2 + 2 * plan.early]
    seconds: dict[str, list[float]] = {"early": [], "late": []}
    for _ in range(plan.repeats):
        for kind, state in (("early", early), ("late", late)):
            await critic.warm(state)
            actions = _actions(plan, writer)
            began = time.perf_counter()
            await critic.score(state, actions)
            seconds[kind].append(time.perf_counter() - began)
    if fresh:
        states = [_history(plan, writer) for _ in range(plan.k)]
        scorings = zip(states, _actions(plan, writer), strict=True)
        began = time.perf_counter()
        await asyncio.gather(*(critic.score(state, [action]) for state, action in scorings))
        seconds["fresh"] = [time.perf_counter() - began]
    return seconds


def _history(plan: ScoringPlan, writer: Writer) -> list[Message]:
    a_turn = plan.tokens / (plan.late + 2)
    turn = round(a_turn / 4)
    return writer.history(
        plan.late, first=round(2 * a_turn), turn=turn, observation=round(a_turn) - turn - 8
    )  # the template has about four tokens of its own for a message


def _actions(plan: ScoringPlan, writer: Writer) -> list[Message]:
    turn = plan.tokens / (plan.late + 2) / 4
    return [Message.assistant(writer.text(turn)) for _ in range(plan.k)]


async def measure_vllm(folder: Path, plan: ScoringPlan) -> dict[str, float]:
    """On a server of our own. Raises: ``SearchError`` where there is no vLLM."""
    server = VllmSettings(
        model=str(folder), name="critic", runner="pooling", max_model_len=POSITIONS
    )
    async with vllm_server(server) as up:
        critic = VllmCritic(
            "critic", VllmCriticSettings(url=up.url, model=up.model, checkpoint=str(folder))
        )
        try:
            return await measure_scoring(OnVllm(critic), plan)
        finally:
            await critic.close()
