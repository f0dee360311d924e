"""Rows of two published data sets: ``nebius/SWE-agent-trajectories`` and
``nebius/SWE-rebench-openhands-trajectories``. Knows nothing of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from critic.importing.assembly import NotATrajectory, assemble, message_of
from pilotfish import Message
from pilotfish.trajectory import Trajectory

_ROLES = {"system": "system", "user": "user", "ai": "assistant"}
OPENHANDS_POLICY = "openhands"
"""That data set does not name the model of a row."""


def is_swe_agent_row(fields: dict[str, Any]) -> bool:
    return {"instance_id", "model_name", "target", "trajectory"} <= fields.keys()


def from_swe_agent_row(fields: dict[str, Any], path: Path) -> Trajectory:
    """``trajectory`` is of ``{role: system|user|ai, text, system_prompt, ...}``; ``target`` says
    whether the hidden tests passed."""
    return assemble(
        [_swe_agent_message(m) for m in _list(fields, "trajectory")],
        task_id=str(fields["instance_id"] or ""),
        policy=fields["model_name"],
        reward=_reward(fields["target"]),
        exit_status=fields.get("exit_status"),
        submission=fields.get("generated_patch"),
    )


def _swe_agent_message(fields: dict[str, Any]) -> Message:
    role = _ROLES.get(fields.get("role") or "")
    if role is None:
        raise NotATrajectory(f"a message of role {fields.get('role')!r}")
    text = fields.get("text")
    if role == "system":
        text = text or fields.get("system_prompt")
    return Message.model_validate({"role": role, "content": text or ""})


def is_openhands_row(fields: dict[str, Any]) -> bool:
    return {"instance_id", "trajectory", "resolved"} <= fields.keys()


def from_openhands_row(fields: dict[str, Any], path: Path) -> Trajectory:
    """``trajectory`` is of OpenAI's messages; ``resolved`` is 1 where the hidden tests passed."""
    return assemble(
        [_openhands_message(m) for m in _list(fields, "trajectory")],
        task_id=str(fields["instance_id"] or ""),
        policy=fields.get("model_name") or OPENHANDS_POLICY,
        reward=_reward(fields["resolved"]),
        exit_status=fields.get("exit_status"),
        submission=fields.get("model_patch"),
        trajectory_id=fields.get("trajectory_id"),
    )


def _openhands_message(fields: dict[str, Any]) -> Message:
    calls = fields.get("tool_calls")
    if isinstance(calls, str):  # some exports keep them as JSON text
        fields = fields | {"tool_calls": json.loads(calls)}
    return message_of(fields)


def _list(fields: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = fields[name]
    if isinstance(found, str):
        found = json.loads(found)
    if not isinstance(found, list) or not all(isinstance(m, dict) for m in found):
        raise NotATrajectory(f"{name} is not a list of messages")
    return found


_REWARDS = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}


def _reward(told: object) -> float | None:
    if told is None:
        return None
    word = str(told).lower()
    if word not in _REWARDS:
        raise NotATrajectory(f"an outcome of {told!r}; it is true or false, 1 or 0")
    return _REWARDS[word]
