"""``*.traj`` of SWE-agent 1.x. Knows nothing of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from critic.importing.assembly import NotATrajectory, assemble, message_of
from pilotfish.trajectory import Trajectory

_OURS_NOT = frozenset(
    {"agent", "message_type", "thought", "action", "is_demo", "tags", "cache_control"}
)
"""What SWE-agent notes beside a message, which the model was not shown."""


def is_document(fields: dict[str, Any]) -> bool:
    return "history" in fields and "trajectory" in fields and "info" in fields


def from_document(fields: dict[str, Any], path: Path) -> Trajectory:
    """``history`` is what the model was shown. A demonstration in one message is part of the
    prompt; one of whole turns is left out, since they are not the agent's. The task is named by
    the file; whether it was solved the file does not say."""
    history = fields["history"]
    if not isinstance(history, list):
        raise NotATrajectory("history is not a list of messages")
    info = fields.get("info") or {}
    replay = fields.get("replay_config")
    demos = [message for message in history if message.get("is_demo")]
    if any(message.get("role") == "assistant" for message in demos):
        history = [message for message in history if not message.get("is_demo")]
    return assemble(
        [message_of(_shown(message)) for message in history],
        task_id=path.name.removesuffix(".traj"),
        policy=_model(replay) or info.get("model_name"),
        reward=None,
        exit_status=info.get("exit_status"),
        submission=info.get("submission"),
    )


def _shown(message: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in message.items() if name not in _OURS_NOT}
    ids = shown.pop("tool_call_ids", None)
    if ids:
        shown["tool_call_id"] = ids[0]
    return shown


def _model(replay: Any) -> str | None:
    """The model's name in the configuration, which SWE-agent keeps as JSON text."""
    if isinstance(replay, str):
        try:
            replay = json.loads(replay)
        except ValueError:
            return None
    found: Any = replay
    for name in ("agent", "model", "name"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, str) else None
