"""A trajectory as mini-swe-agent's document, ``mini-swe-agent-1.1``, for its inspector and others'
tools. Knows nothing of files.

Messages are as the model saw them. What the search knows stands in each turn's ``extra.pilotfish``:
Q, all candidates, and the reason for the choice.
"""

from __future__ import annotations

from typing import Any

from pilotfish.trajectory import Decision, Observation, Trajectory

FORMAT = "mini-swe-agent-1.1"


def document_of(trajectory: Trajectory) -> dict[str, Any]:
    status = trajectory.exit_status or ""
    submission = trajectory.submission or ""
    messages: list[dict[str, Any]] = [message.wire() for message in trajectory.prefix]
    for step in trajectory.steps:
        messages.append(step.decision.message.wire() | {"extra": _turn(step.decision)})
        for reply in step.replies:
            messages.append(reply.wire() | {"extra": _reply(step.observation)})
    end = {"exit_status": status, "submission": submission}
    messages.append({"role": "exit", "content": trajectory.exit_message, "extra": end})
    usage = trajectory.usage
    return {
        "trajectory_format": FORMAT,
        "instance_id": trajectory.task_id,
        "info": {
            "exit_status": status,
            "submission": submission,
            "model_stats": {
                "instance_cost": 0.0,
                "api_calls": len(trajectory.steps),
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
            },
            "config": {"model": {"model_name": trajectory.policy}},
            "pilotfish": trajectory.model_dump(
                mode="json",
                include={
                    "id", "critic", "slot", "attempt", "seed", "exit_message", "reward",
                    "regression_passed", "generated_passed", "started_at", "seconds", "last_q",
                },
            ) | {"last_q": trajectory.last_q},
        },
        "messages": messages,
    }  # fmt: skip


def _turn(decision: Decision) -> dict[str, Any]:
    fields = decision.model_dump(mode="json", exclude={"candidates"})
    candidates = [
        candidate.model_dump(mode="json", exclude={"message"}, exclude_defaults=True)
        | {"index": candidate.index}
        | ({} if candidate.message is None else {"message": candidate.message.wire()})
        for candidate in decision.candidates
    ]
    return {"pilotfish": {"q": decision.winner.q, **fields, "candidates": candidates}}


def _reply(observation: Observation | None) -> dict[str, Any]:
    if observation is None:
        return {}
    told = observation.model_dump(mode="json", exclude={"output", "exit_code"})
    return {"returncode": observation.exit_code, "pilotfish": told}
