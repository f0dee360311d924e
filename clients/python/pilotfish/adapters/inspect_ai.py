"""For Inspect AI: a solver under which each sample is a session of its own, with what was decided
in its metadata; and the selection, by the critic, among the epochs of a sample.

    task = Task(dataset, guided("POLICY", lambda model: react(model=model, tools=[bash()])),
                epochs=4, sandbox="docker")
    [log] = eval(task)
    print(selected(log))
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import groupby
from typing import Any

from inspect_ai.agent import Agent, as_solver
from inspect_ai.log import EvalLog
from inspect_ai.model import GenerateConfig, Model, get_model
from inspect_ai.solver import Generate, Solver, TaskState, solver

from pilotfish.client import DEFAULT_URL, AsyncPilotfish, Pilotfish
from pilotfish.errors import PilotfishError
from pilotfish.trajectory import Trajectory


@solver  # type: ignore[untyped-decorator]
def guided(
    policy: str,
    agent: Callable[[Model], Agent],
    *,
    url: str | None = None,
    key: str | None = None,
    config: GenerateConfig | None = None,
) -> Solver:
    """Solve with an agent that is guided.

    ``agent`` makes it over the model it is given. ``url`` and ``key`` are by default
    ``PILOTFISH_URL`` and ``PILOTFISH_KEY``. ``state.metadata["pilotfish"]`` then has the session's
    id, its policy and critic, and of each step its Q, K and reason; or ``error``, where it could
    not be read.
    """
    root = (url or os.environ.get("PILOTFISH_URL") or DEFAULT_URL).rstrip("/")
    secret = key or os.environ.get("PILOTFISH_KEY")

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        session = state.uuid
        model = get_model(
            f"openai-api/pilotfish/{policy}",
            base_url=f"{root}/sessions/{session}/v1",
            api_key=secret or "none",
            config=config or GenerateConfig(),
            memoize=False,
        )
        try:
            return await as_solver(agent(model))(state, generate)
        finally:  # a limit ends the sample with an exception
            state.metadata["pilotfish"] = await _decided(root, secret, session)

    return solve


async def _decided(url: str, key: str | None, session: str) -> dict[str, Any]:
    try:
        async with AsyncPilotfish(url, key) as client:
            return {"session": session, **_summary(await client.session_trajectory(session))}
    except PilotfishError as error:
        return {"session": session, "error": str(error)}


def _summary(trajectory: Trajectory) -> dict[str, Any]:
    decisions = [step.decision for step in trajectory.steps]
    return {
        "policy": trajectory.policy,
        "critic": trajectory.critic,
        "steps": [
            {
                "q": decision.winner.q,
                "k": len(decision.candidates),
                "reason": decision.reason,
                "degraded": decision.degraded,
            }
            for decision in decisions
        ],
    }


def selected(
    log: EvalLog, *, url: str | None = None, key: str | None = None
) -> dict[str | int, int]:
    """Of each sample the epoch that the critic values most.

    Raises: ``PilotfishError`` where the service is away or has forgotten a session; ``ValueError``
    for a log without samples that ``guided`` solved.
    """
    samples = [s for s in log.samples or [] if "pilotfish" in s.metadata]
    if not samples:
        raise ValueError("the log has no samples that were solved by pilotfish's solver `guided`")
    samples.sort(key=lambda sample: (str(sample.id), sample.epoch))
    chosen = {}
    with Pilotfish(url, key) as client:
        for name, group in groupby(samples, key=lambda sample: sample.id):
            epochs = list(group)
            sessions = [sample.metadata["pilotfish"]["session"] for sample in epochs]
            choice = client.select(sessions=sessions)
            if choice.chosen is not None:
                chosen[name] = epochs[choice.chosen].epoch
    return chosen
