"""The Agent Trajectory Interchange Format, versions 1.0 to 1.7. Knows nothing of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from critic.importing.assembly import NotATrajectory, assemble, message_of
from pilotfish import Message
from pilotfish.trajectory import Trajectory

_ROLES = {"system": "system", "user": "user", "agent": "assistant"}


def is_document(fields: dict[str, Any]) -> bool:
    return str(fields.get("schema_version", "")).startswith("ATIF-v1.")


def from_document(fields: dict[str, Any], path: Path) -> Trajectory:
    """Steps of system, user and agent; an agent's step holds its tool calls and what they gave. The
    task is named by ``extra.task_id`` or ``extra.instance_id``, else by the session or the file;
    whether it was solved is ``extra.reward``, if anything."""
    extra = fields.get("extra") or {}
    agent = fields.get("agent") or {}
    messages: list[Message] = []
    for step in fields.get("steps") or []:
        messages += _messages(step, agent)
    task = extra.get("task_id") or extra.get("instance_id") or fields.get("session_id")
    reward = extra.get("reward")
    return assemble(
        messages,
        task_id=str(task or path.stem),
        policy=agent.get("model_name") or agent.get("name"),
        reward=None if reward is None else float(reward),
        exit_status=extra.get("exit_status"),
        trajectory_id=fields.get("trajectory_id"),
    )


def _messages(step: dict[str, Any], agent: dict[str, Any]) -> list[Message]:
    role = _ROLES.get(step.get("source") or "")
    if role is None:
        raise NotATrajectory(f"a step of source {step.get('source')!r}")
    said: dict[str, Any] = {"role": role, "content": _text(step.get("message"))}
    if reasoning := step.get("reasoning_content"):
        said["reasoning_content"] = reasoning
    calls = step.get("tool_calls") or []
    if calls:
        said["tool_calls"] = [_call(call) for call in calls]
    return [message_of(said), *_replies(step, calls)]


def _call(call: dict[str, Any]) -> dict[str, Any]:
    arguments = call.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    called = {"name": call["function_name"], "arguments": text}
    return {"id": call.get("tool_call_id"), "type": "function", "function": called}


def _replies(step: dict[str, Any], calls: list[dict[str, Any]]) -> list[Message]:
    replies = []
    known = {call.get("tool_call_id") for call in calls}
    for result in (step.get("observation") or {}).get("results") or []:
        text, source = _text(result.get("content")), result.get("source_call_id")
        if source in known and source is not None:
            reply = {"role": "tool", "tool_call_id": source, "content": text}
        else:
            reply = {"role": "user", "content": text}
        replies.append(message_of(reply))
    return replies


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content or []
    return "".join(part.get("text") or "" for part in parts if part.get("type") == "text")
