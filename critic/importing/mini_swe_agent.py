"""``*.traj.json`` of mini-swe-agent (``mini-swe-agent-1`` and ``-1.1``). Knows nothing of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from critic.importing.assembly import NotATrajectory, assemble, message_of
from pilotfish import Message
from pilotfish.trajectory import Trajectory


def is_document(fields: dict[str, Any]) -> bool:
    return str(fields.get("trajectory_format", "")).startswith("mini-swe-agent")


def from_document(fields: dict[str, Any], path: Path) -> Trajectory:
    """Chat messages as the model saw them, with ``extra`` for the scaffold. The task is named by
    ``instance_id``, or by the file; whether it was solved the file does not say."""
    info = fields.get("info") or {}
    model = ((info.get("config") or {}).get("model") or {}).get("model_name")
    messages: list[Message] = []
    for message in fields.get("messages") or []:
        messages += _messages(message)
    return assemble(
        messages,
        task_id=str(fields.get("instance_id") or path.name.removesuffix(".traj.json")),
        policy=model,
        reward=None,
        exit_status=info.get("exit_status") or None,
        submission=info.get("submission"),
    )


def _messages(fields: dict[str, Any]) -> list[Message]:
    """A turn of the chat API as it is; one of the responses API as a chat turn; ``exit``, by which
    the scaffold notes its end, is nothing that anybody said."""
    if fields.get("role") == "exit":
        return []
    fields = {name: value for name, value in fields.items() if name != "extra"}
    if fields.get("object") == "response":
        return [_of_response(fields)]
    if fields.get("type") == "function_call_output":
        reply = {"role": "tool", "tool_call_id": fields.get("call_id"), "content": fields["output"]}
        return [message_of(reply)]
    return [message_of(fields)]


def _of_response(fields: dict[str, Any]) -> Message:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for item in fields.get("output") or []:
        if item.get("type") == "message":
            texts += [part.get("text") or "" for part in item.get("content") or []]
        elif item.get("type") == "function_call":
            called = {"name": item["name"], "arguments": item.get("arguments") or "{}"}
            calls.append({"id": item.get("call_id"), "type": "function", "function": called})
    if not texts and not calls:
        raise NotATrajectory("a response without a message or a call")
    return message_of({"role": "assistant", "content": "".join(texts), "tool_calls": calls})
