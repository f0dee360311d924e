"""Items of OpenAI's Responses API as chat messages. Knows nothing of the request around them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from service.wire.fields import objects, some, text, wrong

ENCODED = "pilotfish:"
"""Before reasoning in ``encrypted_content``, where it is no secret: callers who keep no texts of
reasoning give it back by that field."""
_TEXTS = ("input_text", "output_text", "text")


def messages_of(items: Sequence[dict[str, Any]], *, before: int = 0) -> list[dict[str, Any]]:
    """Chat messages that say what ``items`` do. What the agent says in a row is one message, as far
    as a chat message has room: its reasoning, its text, then its calls.

    >>> call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    >>> [message] = messages_of([{"role": "assistant", "content": "Look."}, call])
    >>> message["content"], [call["id"] for call in message["tool_calls"]]
    ('Look.', ['c'])
    """
    messages: list[dict[str, Any]] = []
    for i, item in enumerate(items):
        _add(messages, item, f"input.{i - before}")
    return messages


def long_form(item: dict[str, Any]) -> dict[str, Any]:
    """An item with what callers may leave out of a message.

    >>> long_form({"role": "user", "content": "Look."})
    {'type': 'message', 'role': 'user', 'content': [{'type': 'input_text', 'text': 'Look.'}]}
    """
    item = {"type": "message"} | item
    if item["type"] == "message" and isinstance(item.get("content"), str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        item["content"] = [{"type": kind, "text": item["content"]}]
    return item


def _add(messages: list[dict[str, Any]], item: dict[str, Any], where: str) -> None:
    kind = item.get("type", "message")
    if kind == "message" and item.get("role") == "assistant":
        _say(messages, item, where)
    elif kind == "message":
        role = item.get("role")
        if role not in ("user", "system", "developer"):
            raise wrong(f"{where}.role", f"user, system, developer or assistant; got {role!r}")
        content = _content(item.get("content"), f"{where}.content")
        messages.append({"role": role, "content": content})
    elif kind == "function_call":
        message = _assistant(messages, new=False)
        message.setdefault("tool_calls", []).append(_call(item, where))
    elif kind == "function_call_output":
        answers = text(item.get("call_id"), f"{where}.call_id")
        content = _content(item.get("output"), f"{where}.output")
        messages.append({"role": "tool", "tool_call_id": answers, "content": content})
    elif kind == "reasoning":
        if thought := _thought(item, where):
            message = _assistant(messages, new=_has_spoken(messages))
            said = message.get("reasoning_content")
            message["reasoning_content"] = f"{said}\n{thought}" if said else thought
    else:
        raise wrong(f"{where}.type", f"items of type {kind!r} are not known here")


def _assistant(messages: list[dict[str, Any]], *, new: bool) -> dict[str, Any]:
    """The message that the agent is at."""
    if new or not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _say(messages: list[dict[str, Any]], item: dict[str, Any], where: str) -> None:
    parts = item.get("content")
    if isinstance(parts, str):
        parts = [{"type": "output_text", "text": parts}]
    message = _assistant(messages, new=_has_spoken(messages))
    for place, part in objects(parts, f"{where}.content"):
        kind = part.get("type")
        if kind == "refusal":
            message["refusal"] = text(part.get("refusal"), f"{place}.refusal")
        elif kind in _TEXTS:
            message["content"] = _joined(message["content"], _part(part, place)["text"])
        else:
            raise wrong(f"{place}.type", f"an agent says output_text; got {kind!r}")


def _has_spoken(messages: list[dict[str, Any]]) -> bool:
    """Whether the last message has its text, and no calls yet: what comes is another message."""
    last = messages[-1] if messages else {}
    says = last.get("content") is not None or "refusal" in last
    return says and "tool_calls" not in last


def _joined(content: str | list[dict[str, Any]] | None, more: str) -> str | list[dict[str, Any]]:
    """One text stays text; several are kept apart."""
    if content is None:
        return more
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [*parts, {"type": "text", "text": more}]


def _content(content: Any, where: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [_part(part, place) for place, part in objects(content, where)]


def _part(part: dict[str, Any], where: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind in _TEXTS:
        return {"type": "text", "text": text(part.get("text"), f"{where}.text")}
    if kind == "input_image":
        if "image_url" not in part:
            raise wrong(f"{where}.image_url", "an image is known by its URL alone")
        image = {"url": text(part["image_url"], f"{where}.image_url")}
        return {"type": "image_url", "image_url": image | some(part, "detail")}
    if kind == "input_file" and "file_url" not in part:
        return {"type": "file", "file": some(part, "file_id", "file_data", "filename")}
    raise wrong(f"{where}.type", f"parts of type {kind!r} are not known here")


def _call(item: dict[str, Any], where: str) -> dict[str, Any]:
    name, arguments = (text(item.get(field), f"{where}.{field}") for field in ("name", "arguments"))
    function = {"name": name, "arguments": arguments}
    called = text(item.get("call_id"), f"{where}.call_id")
    return {"id": called, "type": "function", "function": function}


def _thought(item: dict[str, Any], where: str) -> str:
    """Its text; where only a summary was kept, that."""
    encoded = item.get("encrypted_content")
    parts = item.get("content") or ([] if encoded else item.get("summary")) or []
    if encoded is None or parts:
        given = objects(parts, f"{where}.content")
        return "\n".join(text(part.get("text"), f"{place}.text") for place, part in given)
    place = f"{where}.encrypted_content"
    try:
        before, found, code = text(encoded, place).partition(ENCODED)
        if before or not found:
            raise ValueError
        return base64.b64decode(code, validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise wrong(place, "this was not made here, and nobody here can read it") from error
