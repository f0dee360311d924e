"""An answer in OpenAI's Responses API, as its events and as the response that they make. Knows
nothing of where either goes."""

from __future__ import annotations

import base64
import copy
import time
import uuid
from typing import Any

from service.errors import ApiError
from service.wire.items import ENCODED
from service.wire.responses import Asked
from service.wire.turn import Piece, Turn

Event = dict[str, Any]

_PARTS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "reasoning": ("reasoning", "response.reasoning_text", "text", {"type": "reasoning_text"}),
    "text": (
        "message", "response.output_text", "text",
        {"type": "output_text", "annotations": [], "logprobs": []},
    ),
    "refusal": ("message", "response.refusal", "refusal", {"type": "refusal"}),
}  # fmt: skip
"""Of each kind of piece: the item that it belongs to, its events, its field, the rest of it."""
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}


class _Part:
    """A part of an item while it is said."""

    def __init__(self, kind: str, item: dict[str, Any], index: int) -> None:
        self.kind, self.item, self.index = kind, item, index
        self.texts: list[str] = []
        self.logprobs: list[dict[str, Any]] = []


class _Call:
    """A call while it is said. Calls may come interleaved; each is done when the turn is."""

    def __init__(self, item: dict[str, Any], index: int) -> None:
        self.item, self.index = item, index
        self.arguments: list[str] = []


class ResponseEvents:
    """Takes chunks of a chat completion, or a whole one; gives the events of the response.
    ``response`` is what they have made of it so far: whole behind ``end``."""

    def __init__(self, asked: Asked) -> None:
        body = asked.body
        self._encrypted, self._logprobs = asked.encrypted, asked.logprobs
        self._turn = Turn()
        self._part: _Part | None = None
        self._calls: dict[int, _Call] = {}
        self._number = 0
        reasoning = {"effort": None, "summary": None} | body.get("reasoning", {})
        self.response: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": body["model"],
            "output": [],
            "usage": None,
            "background": False,
            "reasoning": reasoning,
            "store": asked.store,
            **{name: body.get(name, default) for name, default in _ECHOED.items()},
        }

    def begin(self) -> list[Event]:
        return [self._of_response("created"), self._of_response("in_progress")]

    def add(self, said: dict[str, Any]) -> list[Event]:
        """Raises: ``PolicyError``."""
        return [event for piece in self._turn.add(said) for event in self._put(piece)]

    def end(self) -> list[Event]:
        """All that is left to say but that the response is done, which ``last`` says. Raises:
        ``PolicyError`` where the policy broke off."""
        turn = self._turn
        turn.end()
        reason = _INCOMPLETE.get(turn.finish_reason or "")
        status = "incomplete" if reason else "completed"
        events = self._end_part(status)
        for call in self._calls.values():
            events += self._end_call(call, status)
        said = {"pilotfish": turn.pilotfish} if turn.pilotfish else {}
        self.response |= said | {
            "status": status,
            "incomplete_details": {"reason": reason} if reason else None,
            "completed_at": None if reason else int(time.time()),
            "usage": _usage(turn.usage),
        }
        self.response = turn.beside | self.response
        return events

    def last(self) -> Event:
        return self._of_response(self.response["status"])

    def failed(self, error: ApiError) -> Event:
        self.response["status"] = "failed"
        self.response["error"] = {"code": _code(error), "message": error.message}
        return self._of_response("failed")

    def _of_response(self, what: str) -> Event:
        return self._event(f"response.{what}", response=copy.deepcopy(self.response))

    def _event(self, kind: str, **fields: Any) -> Event:
        number, self._number = self._number, self._number + 1
        return {"type": kind, "sequence_number": number, **fields}

    def _put(self, piece: Piece) -> list[Event]:
        if piece.kind == "call":
            return self._put_call(piece)
        events = []
        if self._part is None or self._part.kind != piece.kind:
            events += self._begin_part(piece.kind)
        part = self._part
        assert part is not None
        part.texts.append(piece.text)
        said: dict[str, Any] = {"delta": piece.text}
        if piece.kind == "text":
            shown = list(piece.logprobs) if self._logprobs else []
            part.logprobs += shown
            said["logprobs"] = shown
        return [*events, self._of_part(part, f"{_PARTS[piece.kind][1]}.delta", **said)]

    def _begin_part(self, kind: str) -> list[Event]:
        owner, _, field, rest = _PARTS[kind]
        events: list[Event] = []
        if self._part is not None and self._part.item["type"] == owner:  # text, then refusal
            events, item = self._end_content(self._part), self._part.item
            self._part = _Part(kind, item, self._part.index)
        else:
            events = self._end_part("completed")
            item = _reasoning() if owner == "reasoning" else _message()
            added, index = self._add_item(item)
            events.append(added)
            self._part = _Part(kind, item, index)
        part = copy.deepcopy(rest) | {field: ""}
        return [*events, self._of_part(self._part, "response.content_part.added", part=part)]

    def _end_content(self, part: _Part) -> list[Event]:
        _, name, field, rest = _PARTS[part.kind]
        said: dict[str, Any] = {field: "".join(part.texts)}
        whole = copy.deepcopy(rest) | said
        if part.kind == "text":
            whole["logprobs"] = said["logprobs"] = part.logprobs
        events = [
            self._of_part(part, f"{name}.done", **said),
            self._of_part(part, "response.content_part.done", part=whole),
        ]
        part.item["content"].append(whole)
        if part.kind == "reasoning" and self._encrypted:
            code = base64.b64encode(said["text"].encode()).decode()
            part.item["encrypted_content"] = f"{ENCODED}{code}"
        return events

    def _end_part(self, status: str) -> list[Event]:
        if self._part is None:
            return []
        part, events = self._part, self._end_content(self._part)
        self._part = None
        return [*events, self._end_item(part.item, part.index, status)]

    def _of_part(self, part: _Part, kind: str, /, **said: Any) -> Event:
        place = {"item_id": part.item["id"], "output_index": part.index}
        return self._event(kind, **place, content_index=len(part.item["content"]), **said)

    def _put_call(self, piece: Piece) -> list[Event]:
        events: list[Event] = []
        if piece.position not in self._calls:
            events = self._end_part("completed")
            item = {"type": "function_call", "id": _id("fc"), "call_id": piece.id,
                    "name": piece.name, "arguments": "", "status": "in_progress"}  # fmt: skip
            added, index = self._add_item(item)
            events.append(added)
            self._calls[piece.position] = _Call(item, index)
        call = self._calls[piece.position]
        if piece.text:
            call.arguments.append(piece.text)
            events.append(self._of_call(call, "delta", delta=piece.text))
        return events

    def _end_call(self, call: _Call, status: str) -> list[Event]:
        call.item["arguments"] = "".join(call.arguments)
        said = {"name": call.item["name"], "arguments": call.item["arguments"]}
        whole = status == "completed" or call.index < len(self.response["output"]) - 1
        done = self._of_call(call, "done", **said)
        return [done, self._end_item(call.item, call.index, "completed" if whole else status)]

    def _of_call(self, call: _Call, what: str, **said: Any) -> Event:
        place = {"item_id": call.item["id"], "output_index": call.index}
        return self._event(f"response.function_call_arguments.{what}", **place, **said)

    def _add_item(self, item: dict[str, Any]) -> tuple[Event, int]:
        index = len(self.response["output"])
        self.response["output"].append(item)
        added = {"output_index": index, "item": copy.deepcopy(item)}
        return self._event("response.output_item.added", **added), index

    def _end_item(self, item: dict[str, Any], index: int, status: str) -> Event:
        item["status"] = status
        done = {"output_index": index, "item": copy.deepcopy(item)}
        return self._event("response.output_item.done", **done)


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def _reasoning() -> dict[str, Any]:
    item = {"type": "reasoning", "id": _id("rs"), "summary": [], "content": []}
    return item | {"status": "in_progress"}


def _message() -> dict[str, Any]:
    item = {"type": "message", "id": _id("msg"), "role": "assistant", "content": []}
    return item | {"status": "in_progress"}


def _usage(chat: dict[str, Any]) -> dict[str, Any] | None:
    if not chat:
        return None
    read, written = chat.get("prompt_tokens") or 0, chat.get("completion_tokens") or 0
    cached = {"cached_tokens": 0, "cache_write_tokens": 0}
    return {
        "input_tokens": read,
        "input_tokens_details": cached | _known(chat.get("prompt_tokens_details")),
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0}
        | _known(chat.get("completion_tokens_details")),
        "total_tokens": chat.get("total_tokens") or read + written,
    }


def _known(details: dict[str, Any] | None) -> dict[str, Any]:
    return {name: count for name, count in (details or {}).items() if count is not None}


def _code(error: ApiError) -> str:
    """Of the codes that this API has; that the input is too long is told by its own."""
    if error.code == "context_length_exceeded":
        return error.code
    if error.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.status < 500 else "server_error"
