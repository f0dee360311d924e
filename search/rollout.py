"""One trajectory: decide, execute, observe, until it ends. Knows nothing of other trajectories.

A trajectory is a function of its journal: what was journaled is never decided or executed again.
Each action carries an id, under which the sandbox keeps its result, so an action whose result was
lost on the way is asked for again and not run again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from pilotfish import Candidate, Decision, Message, Observation, Step, Task, Trajectory
from pilotfish.strategy import Lookahead, RolloutSettings
from pilotfish.trajectory import ExitStatus
from search.actions import Action, FormatError, parse_action, render_observation, replies_to
from search.budget import Budget
from search.commands import run_by
from search.contracts import Critic, Journal, Policy, Sandbox
from search.errors import (
    BudgetExceeded,
    ContextTooLong,
    CriticError,
    PolicyError,
    SandboxError,
    SandboxLost,
)
from search.finished import put_scores, score_finished
from search.lookahead import decide

CHARACTERS_PER_TOKEN = 2
"""Of text that no policy has counted yet: fewer than tokenizers need (3 to 4, of a small vocabulary
2 to 3), so that a budget errs on the side of not spending."""


class Rollout:
    """Runs one trajectory, from its beginning or from where its journal ends."""

    def __init__(
        self,
        task: Task,
        policy: Policy,
        critic: Critic | None,
        lookahead: Lookahead,
        settings: RolloutSettings,
        budget: Budget,
        journal: Journal,
        trajectory: Trajectory,
        *,
        seconds: float = 0.0,
        behind: Callable[[Trajectory], str | None] = lambda trajectory: None,
        decided: Callable[[Decision], None] = lambda decision: None,
        lean: bool = False,
    ) -> None:
        """``seconds`` is for how long a trajectory that is taken up has been executed before.
        ``behind`` says before each step why the trajectory should go no further, if so; ``decided``
        is told each decision once it is journaled. ``lean`` forgets what the journal has and the
        next steps do not need."""
        self._behind, self._decided, self._lean = behind, decided, lean
        self.task, self.policy, self.critic = task, policy, critic
        self.lookahead, self.settings = lookahead, settings
        self.budget, self.journal, self.trajectory = budget, journal, trajectory
        self.history = trajectory.messages
        self._began = time.monotonic() - seconds
        self._prompt_tokens = max((s.decision.prompt_tokens for s in trajectory.steps), default=0)
        last = trajectory.steps[-1] if self._prompt_tokens else None
        self._unread = _characters([last.decision.message, *last.replies] if last else self.history)
        """Characters that no prompt yet has counted."""

    async def run(self, sandbox: Sandbox) -> Trajectory:
        """Go on until the trajectory ends. Whatever ends it is a named exit status, never an
        exception, but for cancellation and a journal that cannot be written."""
        try:
            while True:
                await self._step(sandbox)
        except _Ended as end:
            await self._end(end.exit_status, str(end))
        except BudgetExceeded as error:
            await self._end(error.exit_status, str(error))  # type: ignore[arg-type]
        except ContextTooLong as error:
            await self._end("ContextLimitExceeded", str(error))
        except PolicyError as error:
            await self._end("PolicyError", str(error))
        except SandboxLost as error:
            await self._end("SandboxLost", str(error))
        except SandboxError as error:
            await self._end("SandboxError", str(error))
        return self.trajectory

    async def _step(self, sandbox: Sandbox) -> None:
        steps = self.trajectory.steps
        if not steps or steps[-1].replies:
            await self._decide()
        await self._execute(sandbox, steps[-1])

    async def _decide(self) -> None:
        number = len(self.trajectory.steps)
        self._check_format_errors()  # whoever had it before may not have come to it
        self._check_limits(number)
        if why := self._behind(self.trajectory):
            raise _Ended("Pruned", why)
        with self.budget.step(self._worst_case()) as cost:
            try:
                async with asyncio.timeout(self._seconds_left()):
                    decision = await decide(
                        self.policy,
                        self.critic,
                        self.history,
                        self.lookahead,
                        session=self.trajectory.id,
                        seed=step_seed(self.trajectory.seed, number),
                    )
            except TimeoutError:
                raise _Ended("TimeLimitExceeded", "no decision in time") from None
            cost.usage = decision.usage
        if decision.prompt_tokens:
            self._prompt_tokens, self._unread = decision.prompt_tokens, 0
        await self.journal.append(
            "decided", trajectory=self.trajectory.id, step=number, decision=dump(decision)
        )
        self._decided(decision)
        self.trajectory.steps.append(Step(decision=decision))
        self.history.append(decision.message)
        self._unread += _characters([decision.message])

    def _check_limits(self, number: int) -> None:
        if number >= self.settings.max_steps:
            raise _Ended("StepLimitExceeded", f"{number} steps without a submission")
        limit = self.settings.max_seconds
        if limit is not None and time.monotonic() - self._began >= limit:
            raise _Ended("TimeLimitExceeded", f"{limit:g} s without a submission")

    def _seconds_left(self) -> float | None:
        limits = [self.budget.seconds_left]
        if self.settings.max_seconds is not None:
            limits.append(self.settings.max_seconds - (time.monotonic() - self._began))
        return min((limit for limit in limits if limit is not None), default=None)

    def _worst_case(self) -> int:
        """Tokens that the next step may take: its candidates at their longest, and the prompt. Of
        that the policy has counted what it has read; what is new is taken for more than it is."""
        if self.budget.limits.tokens is None:
            return 0
        per_candidate = self.lookahead.sampling.most_tokens or 0
        unread = self._unread // CHARACTERS_PER_TOKEN
        return self._prompt_tokens + unread + per_candidate * self.lookahead.k

    async def _execute(self, sandbox: Sandbox, step: Step) -> None:
        number = len(self.trajectory.steps) - 1
        try:
            action = parse_action(step.decision.message)
        except FormatError as error:
            await self._observed(step, number, None, str(error))
            self._check_format_errors()
            return
        if action.submits:
            raise _Ended("Submitted")
        observation = await self._run_command(sandbox, action, number)
        code = None if observation.timed_out else observation.exit_code
        text = render_observation(code, observation.output, limit=self.settings.observation_chars)
        await self._observed(step, number, observation, text)

    async def _run_command(self, sandbox: Sandbox, action: Action, number: int) -> Observation:
        timeout = self.settings.command_timeout
        left = self._seconds_left()
        return await sandbox.execute(
            run_by(self.task, action.command),
            action_id=f"{self.trajectory.id}-{number}",
            timeout=timeout if left is None else max(0.1, min(timeout, left)),
        )

    async def _observed(
        self, step: Step, number: int, observation: Observation | None, text: str
    ) -> None:
        replies = replies_to(step.decision.message, text)
        await self.journal.append(
            "observed",
            trajectory=self.trajectory.id,
            step=number,
            observation=None if observation is None else dump(observation),
            replies=[reply.wire() for reply in replies],
        )
        step.observation, step.replies = observation, replies
        self.history += replies
        self._unread += _characters(replies)
        if self._lean:
            forget(step)

    def _check_format_errors(self) -> None:
        last = self.trajectory.steps[-self.settings.max_format_errors :]
        if len(last) == self.settings.max_format_errors and all(
            s.observation is None for s in last
        ):
            raise _Ended("FormatError", f"{len(last)} turns in a row without exactly one command")

    async def _end(self, exit_status: ExitStatus, message: str) -> None:
        self.trajectory.exit_status = exit_status
        self.trajectory.exit_message = message
        self.trajectory.seconds = time.monotonic() - self._began
        await self._score_afterwards()

    async def _score_afterwards(self) -> None:
        """Without lookahead nothing was scored on the way: its turns are now, or at least the last
        one, so that the trajectory can be selected among others."""
        unscored = self.trajectory.last_q is None and self.trajectory.steps
        if self.critic is None or not unscored:
            return
        try:
            scores = await score_finished(self.critic, self.history)
        except CriticError as error:
            self.trajectory.steps[-1].decision.notes.append(f"not scored: {error}")
            return
        put_scores(self.trajectory.steps, scores)


_FORGOTTEN = Observation()


def forget(step: Step) -> None:
    """Drop what is read no more of a step that went by: the candidates that were not taken become
    one, of all their tokens, and of the observation is left that there was one."""
    decision = step.decision
    others = [c for c in decision.candidates if c.index != decision.chosen]
    if others:
        rest = Candidate(index=others[0].index, tokens=sum(c.tokens for c in others))
        decision.candidates = [decision.winner, rest]
    if step.observation is not None:
        step.observation = _FORGOTTEN


def _characters(messages: list[Message]) -> int:
    return sum(len(m.text) + len(str(m.tool_calls or "")) for m in messages)


class _Ended(Exception):
    def __init__(self, exit_status: ExitStatus, message: str = "") -> None:
        super().__init__(message)
        self.exit_status: ExitStatus = exit_status


def new_trajectory(
    task: Task,
    policy: str,
    critic: str | None,
    settings: RolloutSettings,
    *,
    seed: int | None,
    slot: int = 0,
    attempt: int = 0,
) -> Trajectory:
    """A trajectory that has not begun."""
    return Trajectory(
        task_id=task.id,
        policy=policy,
        critic=critic,
        slot=slot,
        attempt=attempt,
        seed=seed,
        prefix=[Message.system(settings.system_prompt), Message.user(task.statement)],
        started_at=time.time(),
    )


def step_seed(seed: int | None, number: int) -> int | None:
    """The sampling seed of one step, from the trajectory's: spread, and the same every time."""
    if seed is None:
        return None
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def dump(record: BaseModel) -> dict[str, Any]:
    """A record as JSON values, without what stands at its default; messages as they came."""
    return record.model_dump(mode="json", exclude_defaults=True)
