"""An answer in Anthropic's Messages API, as its events and as the message that they make. Knows
nothing of where either goes."""

from __future__ import annotations

import copy
import json
import uuid
from typing import Any

from service.wire.turn import Piece, Turn

Event = dict[str, Any]
PING: Event = {"type": "ping"}
UNREADABLE = "INVALID_JSON"
"""The field of a call's input that holds what the policy wrote where that is no JSON object."""

_BLOCKS: dict[str, tuple[dict[str, Any], str, str]] = {
    "reasoning": (
        {"type": "thinking", "thinking": "", "signature": ""}, "thinking_delta", "thinking",
    ),
    "text": ({"type": "text", "text": ""}, "text_delta", "text"),
    "call": ({"type": "tool_use", "input": {}}, "input_json_delta", "partial_json"),
}  # fmt: skip
"""Of each kind of piece: its block when it begins, its delta, the delta's field."""
_STOPPED = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


class _Block:
    """A block while it is said."""

    def __init__(self, piece: Piece) -> None:
        self.kind = "text" if piece.kind == "refusal" else piece.kind
        self.place = _place(piece)
        self.block = copy.deepcopy(_BLOCKS[self.kind][0])
        if piece.kind == "call":
            self.block |= {"id": piece.id, "name": piece.name}
        self.texts: list[str] = []


class MessageEvents:
    """Takes chunks of a chat completion, or a whole one; gives the events of the message.
    ``message`` is what they have made of it so far: whole behind ``end``."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._stops = body.get("stop_sequences") or []
        self._turn = Turn()
        self._open: _Block | None = None
        self._held: list[_Block] = []
        self._refused = False
        self.message: dict[str, Any] = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }

    def begin(self) -> list[Event]:
        return [{"type": "message_start", "message": copy.deepcopy(self.message)}]

    def add(self, said: dict[str, Any]) -> list[Event]:
        """Raises: ``PolicyError``."""
        pieces = self._turn.add(said)
        if any("message" in choice for choice in said.get("choices") or []):
            pieces = [_readable(piece) for piece in pieces]
        return [event for piece in pieces for event in self._put(piece)]

    def end(self) -> list[Event]:
        """Raises: ``PolicyError`` where the policy broke off."""
        turn = self._turn
        turn.end()
        events = self._end_block()
        for block in self._held:
            events += self._begin_block(block)
            events += [self._delta(text) for text in block.texts if text]
            events += self._end_block()
        met = turn.stop_reason if turn.stop_reason in self._stops else None
        reason = "stop_sequence" if met else _STOPPED.get(turn.finish_reason or "", "end_turn")
        stop = {"stop_reason": "refusal" if self._refused else reason, "stop_sequence": met}
        ours = {"pilotfish": turn.pilotfish} if turn.pilotfish else {}
        usage = _usage(turn.usage)
        self.message = turn.beside | self.message | ours | stop | {"usage": usage}
        said = {"type": "message_delta", "delta": stop, "usage": usage}
        return [*events, turn.beside | ours | said, {"type": "message_stop"}]

    def _put(self, piece: Piece) -> list[Event]:
        self._refused = self._refused or piece.kind == "refusal"
        opened = self._open
        if opened is not None and opened.place == _place(piece):
            opened.texts.append(piece.text)
            return [self._delta(piece.text)] if piece.text else []
        if opened is not None and opened.kind == "call":
            self._hold(piece)
            return []
        block = _Block(piece)
        block.texts.append(piece.text)
        events = [*self._end_block(), *self._begin_block(block)]
        return [*events, self._delta(piece.text)] if piece.text else events

    def _hold(self, piece: Piece) -> None:
        """Blocks come one after the other, but of a call under way more may come any time: what
        comes beside it waits."""
        held = [block for block in self._held if block.place == _place(piece)]
        if not held or (piece.kind != "call" and held[-1] is not self._held[-1]):
            held = [_Block(piece)]
            self._held += held
        held[-1].texts.append(piece.text)

    def _begin_block(self, block: _Block) -> list[Event]:
        self._open = block
        began = {"index": self._index, "content_block": copy.deepcopy(block.block)}
        return [{"type": "content_block_start", **began}]

    def _delta(self, said: str) -> Event:
        assert self._open is not None
        _, kind, field = _BLOCKS[self._open.kind]
        delta = {"type": kind, field: said}
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _end_block(self) -> list[Event]:
        if self._open is None:
            return []
        block, said = self._open.block, "".join(self._open.texts)
        if self._open.kind == "call":
            block["input"] = _input(said)
        else:
            block[_BLOCKS[self._open.kind][2]] = said
        ended = {"type": "content_block_stop", "index": self._index}
        self.message["content"].append(block)
        self._open = None
        return [ended]

    @property
    def _index(self) -> int:
        return len(self.message["content"])


def _place(piece: Piece) -> tuple[str, int]:
    return ("text" if piece.kind == "refusal" else piece.kind, piece.position)


def _input(arguments: str) -> dict[str, Any]:
    try:
        given = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        given = None
    return given if isinstance(given, dict) else {UNREADABLE: arguments}


def _readable(piece: Piece) -> Piece:
    """A whole call whose arguments a caller can read, whatever the policy wrote."""
    if piece.kind != "call" or UNREADABLE not in (given := _input(piece.text)):
        return piece
    return piece._replace(text=json.dumps(given))


def _usage(chat: dict[str, Any]) -> dict[str, Any]:
    """What was read from a cache is told beside what was not."""
    read = chat.get("prompt_tokens") or 0
    cached = (chat.get("prompt_tokens_details") or {}).get("cached_tokens")
    usage = {
        "input_tokens": read - (cached or 0),
        "output_tokens": chat.get("completion_tokens") or 0,
    }
    return usage if cached is None else usage | {"cache_read_input_tokens": cached}
