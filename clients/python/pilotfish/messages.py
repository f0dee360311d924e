"""Chat messages in OpenAI's shape: what a state and an action are made of. Knows nothing else."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class Message(BaseModel):
    """One chat message. Fields that we do not name (``reasoning_content``, ``refusal``...) are kept
    exactly as they came."""

    model_config = ConfigDict(extra="allow", frozen=True)

    role: Role
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The text of the content; parts that are not text are left out."""
        if isinstance(self.content, str):
            return self.content
        parts = self.content or []
        return "".join(p.get("text") or "" for p in parts if p.get("type") in (None, "text"))

    @property
    def action_key(self) -> str:
        """What two turns must share to be equal: their text, and names and arguments of tools."""
        calls = [call.get("function") for call in self.tool_calls or []]
        return json.dumps([self.content, calls], sort_keys=True, default=str)

    def wire(self) -> dict[str, Any]:
        """The message as it goes over HTTP: without the fields that were never set."""
        dumped = self.model_dump(exclude_unset=True)
        dumped.setdefault("role", self.role)
        return dumped

    @classmethod
    def system(cls, content: str) -> Message:
        return cls(role="system", content=content)

    @classmethod
    def user(cls, content: str) -> Message:
        return cls(role="user", content=content)

    @classmethod
    def assistant(cls, content: str) -> Message:
        return cls(role="assistant", content=content)
