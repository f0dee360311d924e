"""One run: a task under one strategy, of one or more trajectories, and the selected one. Knows
nothing of HTTP, Redis, or where its sandboxes are.

A run is a function of its spec and its journal: ``Run.resume`` reads the journal and goes on where
it ends, in whatever process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from typing import Any

import structlog
from pydantic import BaseModel

from pilotfish import Decision, Task, Trajectory, Usage
from pilotfish.strategy import Strategy
from pilotfish.trajectory import INFRASTRUCTURE_FAILURES
from search.budget import Budget
from search.contracts import Critic, Journal, Policy, Sandbox, SandboxProvider
from search.errors import BudgetExceeded, JournalError, NotWritten, SandboxError, SandboxLost
from search.evaluation import count_passed, evaluate, submission_of
from search.patches import cleaned
from search.patience import PatientCritic, PatientPolicy
from search.race import Race
from search.replay import Begun, Key, replay
from search.rollout import Rollout, dump, forget, new_trajectory, step_seed
from search.selection import select

log = structlog.get_logger()


class RunResult(BaseModel):
    """All trajectories of a run, attempts that did not submit included, and the choice."""

    trajectories: list[Trajectory]
    finalists: list[int]
    """Positions in ``trajectories`` of what each of the N came to: its last attempt, but for those
    that the budget or the infrastructure did not let do anything."""
    selected: int | None
    """Position in ``trajectories``; ``None`` is an abstention or, with reason ``none``, that
    nothing was done that could be selected."""
    ranking: list[int]
    reason: str
    usage: Usage


class Run:
    """Runs ``task`` under ``strategy``."""

    def __init__(
        self,
        task: Task,
        policy: Policy,
        critic: Critic | None,
        sandboxes: SandboxProvider,
        strategy: Strategy,
        journal: Journal,
        *,
        labels: dict[str, str] | None = None,
        evaluating: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
        decided: Callable[[Decision], None] = lambda decision: None,
        lean: bool = False,
    ) -> None:
        """``evaluating`` is held while an attempt is tested or evaluated. ``decided`` is told each
        decision once it is journaled; those of before a resumption are not. ``lean`` is for whoever
        reads trajectories from the journal: those of the result then lack candidates that were not
        taken, and outputs, and memory does not grow with them."""
        self.lean, self._decided = lean, decided
        patience = strategy.rollout.patience
        self.task, self.policy = task, PatientPolicy(policy, patience)
        self.critic = None if critic is None else PatientCritic(critic, patience)
        self.sandboxes, self.strategy = sandboxes, strategy
        self.labels, self.evaluating = labels or {}, evaluating
        self.budget = Budget(strategy.budget)
        self.journal = _OwnJournal(journal, lambda: self.budget.seconds)
        self._known: dict[Key, Begun] = {}
        self._held: dict[str, Sandbox] = {}
        self._race = Race(strategy.selection)

    async def run(self) -> RunResult:
        """Go on until every trajectory has ended, and select. Raises what the journal raises;
        everything else ends as an exit status."""
        await self._resume()
        permits = asyncio.Semaphore(self.strategy.selection.concurrency)

        async def slot(number: int) -> list[Trajectory]:
            async with permits:
                try:
                    return await self._attempts(number)
                except JournalError:
                    # The others are cancelled now; their sandboxes are for whoever goes on.
                    await asyncio.shield(self.leave())
                    raise

        async with asyncio.TaskGroup() as group:
            slots = [group.create_task(slot(number)) for number in range(self.strategy.selection.n)]
        return await self._select([task.result() for task in slots])

    async def leave(self) -> None:
        """Let go of all live sandboxes, so that whoever resumes this run finds them as they are.
        To be called before ``run`` is cancelled where the run is to go on elsewhere; without, a
        cancelled run closes them. Nothing is journaled from here on."""
        self.journal.left = True
        await asyncio.gather(*(sandbox.release() for sandbox in self._held.values()))

    async def _resume(self) -> None:
        """Read the journal: what has ended is kept, what is live is attached to again."""
        entries = await self.journal.entries()
        if not entries:
            return
        self._known = replay(entries)
        ended = {
            known.trajectory.id
            for known in self._known.values()
            if known.sandbox is not None and known.trajectory.exit_status is not None
        }
        if ended:  # whoever had the run before may have died before it closed their sandboxes
            await self._reap(ended)
        for known in self._known.values():
            known.resumed = True
            for step in known.trajectory.steps[:-1] if self.lean else []:
                forget(step)
            self._race.joined(known.trajectory)
        begun = [known.trajectory for known in self._known.values()]
        self.budget = Budget(
            self.strategy.budget,
            spent=sum((t.usage for t in begun), Usage()),
            steps=sum(len(t.steps) for t in begun),
            seconds=max(float(entry.get("elapsed", 0.0)) for entry in entries),
        )

    async def _attempts(self, number: int) -> list[Trajectory]:
        """The attempts of one of the N: the first, replacements of lost ones, and with
        ``until_submitted`` further ones until one submits."""
        attempts: list[Trajectory] = []
        lost = unsubmitted = 0
        while True:
            key = (number, len(attempts))
            if self._race.accepted.is_set() and key not in self._known:
                return attempts
            trajectory = await self._attempt(key, unsubmitted)
            attempts.append(trajectory)
            if trajectory.exit_status in INFRASTRUCTURE_FAILURES:
                lost += not self._known[key].excused
                if lost > self.strategy.max_replacements:
                    return attempts
                if (number, len(attempts)) not in self._known:
                    await asyncio.sleep(self.strategy.replacement_pause * 2.0 ** max(0, lost - 1))
                continue
            unsubmitted += 1
            again = self.strategy.selection.until_submitted and not trajectory.submitted
            if not again or unsubmitted > self.strategy.selection.max_attempts:
                return attempts
            if not trajectory.steps:
                return attempts  # the budget did not allow even one step: no use to try again

    async def _attempt(self, key: Key, attempt: int) -> Trajectory:
        known = self._known.get(key)
        if known is None:
            known = await self._begin(key, attempt)
        trajectory = known.trajectory
        if trajectory.exit_status is not None:
            return trajectory
        ended = False
        try:
            async with self._sandbox(key, known) as sandbox:
                await self._race_with(trajectory, sandbox, known.seconds)
                await self._journal_end(trajectory)  # while the sandbox is there to come back to
                ended = True
            return trajectory
        except JournalError:
            raise
        except Exception as error:
            if ended:
                log.warning("sandbox not closed", trajectory=trajectory.id, error=str(error))
                return trajectory
            _fail(trajectory, error)
            self._race.lost(trajectory)
        await self._journal_end(trajectory)
        return trajectory

    async def _begin(self, key: Key, attempt: int) -> Begun:
        trajectory = new_trajectory(
            self.task,
            self.policy.name,
            self.critic.name if self.critic else None,
            self.strategy.rollout,
            seed=self._seed(key),
            slot=key[0],
            attempt=attempt,
        )
        await self.journal.append(
            "trajectory_started", slot=key[0], **{"try": key[1]}, record=dump(trajectory)
        )
        self._known[key] = Begun(key, trajectory)
        self._race.joined(trajectory)
        return self._known[key]

    @asynccontextmanager
    async def _sandbox(self, key: Key, known: Begun) -> AsyncIterator[Sandbox]:
        """The trajectory's own live sandbox, or a fresh one if it never had one."""
        if known.sandbox is not None:
            async with self._attached(known, known.sandbox) as sandbox:
                yield sandbox
            return
        labels = self.labels | {"trajectory": known.trajectory.id}
        async with AsyncExitStack() as stack:
            if known.resumed:
                # Whoever had the run before may have started one and died before it was journaled.
                await self._reap({known.trajectory.id})
            try:
                async with asyncio.timeout(self.budget.seconds_left) as limit:
                    starting = self.sandboxes.start(self.task, labels=labels)
                    sandbox = await stack.enter_async_context(starting)
            except TimeoutError:
                if not limit.expired():
                    raise
                message = f"no sandbox started in the {self.budget.limits.seconds:g} s of the run"
                raise BudgetExceeded(message, "TimeLimitExceeded") from None
            await self._journal_sandbox(key, sandbox)
            async with self._holding(sandbox):
                yield sandbox

    @asynccontextmanager
    async def _attached(self, known: Begun, sandbox_id: str) -> AsyncIterator[Sandbox]:
        try:
            sandbox = await self.sandboxes.attach(sandbox_id)
        except SandboxError:
            await self._reap({known.trajectory.id})  # if it is there after all, nobody wants it
            raise
        try:
            async with self._holding(sandbox):
                yield sandbox
        finally:
            await asyncio.shield(sandbox.close())

    async def _journal_sandbox(self, key: Key, sandbox: Sandbox) -> None:
        """Where nobody knows whether the entry is there, the sandbox is left: whoever goes on
        attaches to it by the entry, or removes it by its label."""
        try:
            await self.journal.append(
                "sandbox_started", slot=key[0], **{"try": key[1]}, sandbox=sandbox.id
            )
        except NotWritten:
            raise
        except BaseException as error:
            if self.journal.left or isinstance(error, JournalError):
                await asyncio.shield(sandbox.release())
            raise

    @asynccontextmanager
    async def _holding(self, sandbox: Sandbox) -> AsyncIterator[None]:
        """While it is held it can be left."""
        self._held[sandbox.id] = sandbox
        try:
            yield
        except JournalError:  # before the sandbox is closed
            await asyncio.shield(self.leave())
            raise
        finally:
            del self._held[sandbox.id]
            if self.journal.left:  # maybe before it was held
                await asyncio.shield(sandbox.release())

    async def _reap(self, trajectories: set[str]) -> None:
        """Remove what is labelled as theirs. What cannot be is left to the reconciler."""

        async def gone(labels: Mapping[str, str]) -> bool:
            return labels.get("trajectory") in trajectories

        try:
            await self.sandboxes.reap(gone)
        except SandboxError as error:
            log.warning("sandboxes not looked through", error=str(error))

    async def _race_with(self, trajectory: Trajectory, sandbox: Sandbox, seconds: float) -> None:
        """Roll it out, unless another is accepted meanwhile."""
        rolling = asyncio.ensure_future(self._roll(trajectory, sandbox, seconds))
        accepted = asyncio.ensure_future(self._race.accepted.wait())
        began = time.monotonic()
        try:
            await asyncio.wait({rolling, accepted}, return_when=asyncio.FIRST_COMPLETED)
            if rolling.done() or self._race.winner is trajectory:
                return await rolling
            rolling.cancel()
            await asyncio.gather(rolling, return_exceptions=True)
            trajectory.exit_status, trajectory.reward = "Pruned", None
            trajectory.exit_message = "another attempt was accepted"
            trajectory.seconds = seconds + time.monotonic() - began
        finally:
            rolling.cancel()
            accepted.cancel()
            await asyncio.gather(rolling, accepted, return_exceptions=True)

    async def _roll(self, trajectory: Trajectory, sandbox: Sandbox, seconds: float) -> None:
        rollout = Rollout(
            self.task,
            self.policy,
            self.critic,
            self.strategy.lookahead,
            self.strategy.rollout,
            self.budget,
            self.journal,
            trajectory,
            seconds=seconds,
            behind=self._race.behind,
            decided=self._decided,
            lean=self.lean,
        )
        await rollout.run(sandbox)
        self._race.ended(trajectory)
        if trajectory.submitted:
            trajectory.submission = await submission_of(sandbox, self.task)
        if trajectory.submitted and self.strategy.selection.rule == "hybrid":
            async with self.evaluating():
                await self._test(trajectory, sandbox)
        if self.task.evaluation is None or trajectory.exit_status in INFRASTRUCTURE_FAILURES:
            return
        trajectory.reward = 0.0
        if trajectory.submitted:
            async with self.evaluating():
                trajectory.reward, told = await self._reward(sandbox)
            trajectory.exit_message = trajectory.exit_message or told

    async def _test(self, trajectory: Trajectory, sandbox: Sandbox) -> None:
        """Before the evaluation, whose hidden files no choice may depend on."""

        if (twin := self._tested_twin(trajectory)) is not None:
            trajectory.regression_passed = twin.regression_passed
            trajectory.generated_passed = twin.generated_passed
            return

        def seconds_left() -> float | None:
            return self.budget.seconds_left

        trajectory.regression_passed = await count_passed(
            sandbox, self.task, self.task.regression_tests, "regression", seconds_left=seconds_left
        )
        trajectory.generated_passed = await count_passed(
            sandbox, self.task, self.task.generated_tests, "generated", seconds_left=seconds_left
        )

    def _tested_twin(self, trajectory: Trajectory) -> Trajectory | None:
        """One that handed in the same patch, and was tested."""
        if trajectory.submission is None:
            return None
        answer = cleaned(trajectory.submission)
        for known in self._known.values():
            other = known.trajectory
            tested = other.regression_passed is not None or other.generated_passed is not None
            if tested and other.submission and cleaned(other.submission) == answer:
                return other
        return None

    async def _reward(self, sandbox: Sandbox) -> tuple[float, str]:
        try:
            return await evaluate(sandbox, self.task)
        except SandboxLost:
            raise
        except SandboxError as error:
            # The agent can make its folder unwritable. That must not earn it another attempt.
            log.warning("not evaluated: counted as failed", task=self.task.id, error=str(error))
            return 0.0, f"not evaluated, counted as failed: {error}"

    async def _journal_end(self, trajectory: Trajectory) -> None:
        await self.journal.append(
            "trajectory_ended",
            trajectory=trajectory.id,
            exit_status=trajectory.exit_status,
            exit_message=trajectory.exit_message,
            submission=trajectory.submission,
            reward=trajectory.reward,
            regression_passed=trajectory.regression_passed,
            generated_passed=trajectory.generated_passed,
            seconds=trajectory.seconds,
            qs=trajectory.qs,
            spreads=trajectory.spreads,
        )

    def _seed(self, key: Key) -> int | None:
        return step_seed(self.strategy.seed, key[0] * 1000 + key[1])

    async def _select(self, slots: list[list[Trajectory]]) -> RunResult:
        trajectories = [known.trajectory for _, known in sorted(self._known.items())]
        positions = {trajectory.id: i for i, trajectory in enumerate(trajectories)}
        finalists = [positions[_outcome(attempts).id] for attempts in slots if attempts]
        able = [i for i in finalists if _can_be_selected(trajectories[i])]
        choice = select(
            [trajectories[i] for i in able],
            abstain_below=self.strategy.selection.abstain_below,
            rule=self.strategy.selection.rule,
        )
        result = RunResult(
            trajectories=trajectories,
            finalists=finalists,
            selected=None if choice.chosen is None else able[choice.chosen],
            ranking=[able[i] for i in choice.ranking],
            reason=choice.reason,
            usage=sum((t.usage for t in trajectories), Usage()),
        )
        await self.journal.append(
            "selected", selected=result.selected, ranking=result.ranking, reason=result.reason
        )
        return result


class _OwnJournal:
    """The run's journal, whose entries say for how long the run has been executed: ``elapsed``,
    seconds, in which the time that nobody was at it is not counted, nor what a clock jumped.
    After ``left`` is set it takes nothing more."""

    def __init__(self, inner: Journal, elapsed: Callable[[], float]) -> None:
        self._inner, self._elapsed = inner, elapsed
        self.entries = inner.entries
        self.left = False

    async def append(self, kind: str, **data: Any) -> None:
        if self.left:
            raise NotWritten("the run was left to somebody else")
        await self._inner.append(kind, elapsed=round(self._elapsed(), 3), **data)


def _outcome(attempts: list[Trajectory]) -> Trajectory:
    return ([t for t in attempts if _can_be_selected(t)] or attempts)[-1]


def _fail(trajectory: Trajectory, error: Exception) -> None:
    """What ended it, by name; what the infrastructure failed has no reward."""
    trajectory.exit_message, trajectory.reward = str(error), None
    match error:
        case SandboxLost():
            trajectory.exit_status = "SandboxLost"
        case SandboxError():
            trajectory.exit_status = "SandboxError"
        case BudgetExceeded():
            trajectory.exit_status = error.exit_status  # type: ignore[assignment]
        case _:
            # A defect of ours costs its own trajectory, not the others of the run.
            log.error("trajectory failed", trajectory=trajectory.id, exc_info=error)
            trajectory.exit_status = "InternalError"
            trajectory.exit_message = f"{type(error).__name__}: {error}"


def _can_be_selected(trajectory: Trajectory) -> bool:
    """Whether it did anything, and the infrastructure did not fail it."""
    return bool(trajectory.steps) and trajectory.exit_status not in INFRASTRUCTURE_FAILURES
