"""A request of OpenAI's Responses API, and the chat completion that it asks for. Knows nothing of
its answer, nor where earlier responses are kept."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.wire.fields import fields, flag, objects, only, refuse, text, wrong

ENCODED = "pilotfish:"
"""Before reasoning in ``encrypted_content``, where it is no secret: callers who keep no texts of
reasoning give it back by that field."""

_REFUSED = {
    "background": "responses are given as they are made; call without it",
    "conversation": "no conversations are kept; use previous_response_id",
    "prompt": "no prompts are kept; send instructions and input",
    "context_management": "the context is the caller's to manage",
    "moderation": "nothing is moderated here",
    "messages": "this API's is called input",
    "response_format": "this API's is called text.format",
    "max_tokens": "this API's is called max_output_tokens",
    "max_completion_tokens": "this API's is called max_output_tokens",
    "reasoning_effort": "this API's is called reasoning.effort",
    "logprobs": "this API's is called top_logprobs",
    "n": "a response is one; the candidates are in pilotfish.candidates",
    "best_of": "use pilotfish.k",
}
_TRANSLATED = frozenset({
    "input", "instructions", "tools", "tool_choice", "text", "reasoning", "max_output_tokens",
    "max_tool_calls", "metadata", "store", "previous_response_id", "truncation", "include",
    "stream", "stream_options", "top_logprobs", "background",
})  # fmt: skip
_ENCRYPTED, _LOGPROBS = "reasoning.encrypted_content", "message.output_text.logprobs"


@dataclass(frozen=True)
class Asked:
    """A request, checked. ``items`` are its input in the long form."""

    body: dict[str, Any]
    items: list[dict[str, Any]]
    previous: str | None
    store: bool
    encrypted: bool
    """Whether reasoning is wanted in ``encrypted_content`` too."""
    logprobs: bool


def asked_of(body: dict[str, Any]) -> Asked:
    """Raises: ``ApiError`` 400 naming what is wrong or cannot be honoured."""
    body = {name: value for name, value in body.items() if value is not None}
    refuse(body, _REFUSED)
    if body.get("truncation", "disabled") != "disabled":
        raise wrong("truncation", "nothing is left out of the input; only 'disabled' is known")
    only(fields(body.get("stream_options", {}), "stream_options"), {"include_obfuscation"},
         "stream_options")  # fmt: skip
    include = body.get("include", [])
    if not isinstance(include, list):
        raise wrong("include", "a list is needed")
    for i, name in enumerate(include):
        if name not in (_ENCRYPTED, _LOGPROBS):
            raise wrong(f"include.{i}", f"{name!r} is not given here")
    previous = body.get("previous_response_id")
    return Asked(
        body=body,
        items=_items(body.get("input"), optional=previous is not None),
        previous=None if previous is None else text(previous, "previous_response_id"),
        store=flag(body.get("store", True), "store"),
        encrypted=_ENCRYPTED in include,
        logprobs=_LOGPROBS in include or "top_logprobs" in body,
    )


def chat_of(asked: Asked, earlier: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The body of the chat completion, with the items of ``earlier`` responses before its own."""
    body = asked.body
    chat = {name: value for name, value in body.items() if name not in _TRANSLATED}
    messages = messages_of([*earlier, *asked.items], before=len(earlier))
    if "instructions" in body:
        told = text(body["instructions"], "instructions")
        messages.insert(0, {"role": "system", "content": told})
    chat["messages"] = messages
    if "max_output_tokens" in body:
        chat["max_tokens"] = body["max_output_tokens"]
    if "stream" in body:
        chat["stream"] = body["stream"]
        if body["stream"] is True:
            chat["stream_options"] = {"include_usage": True}
    if "tools" in body:
        chat["tools"] = [_tool(tool, where) for where, tool in objects(body["tools"], "tools")]
    if "tool_choice" in body:
        chat["tool_choice"] = _tool_choice(body["tool_choice"])
    if asked.logprobs:
        chat |= {"logprobs": True} | _some(body, "top_logprobs")
    return chat | _format(body) | _reasoning(body)


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


def _items(given: Any, *, optional: bool) -> list[dict[str, Any]]:
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": given}]
    items = [item for _, item in objects([] if given is None and optional else given, "input")]
    if not items and not optional:
        raise wrong("input", "a text or at least one item is needed")
    return items


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
            last = messages[-1] if messages else {}
            new = last.get("content") is not None and "tool_calls" not in last
            message = _assistant(messages, new=new)
            said = message.get("reasoning_content")
            message["reasoning_content"] = f"{said}\n{thought}" if said else thought
    else:
        raise wrong(f"{where}.type", f"items of type {kind!r} are not known here")


def _assistant(messages: list[dict[str, Any]], *, new: bool) -> dict[str, Any]:
    if new or not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _say(messages: list[dict[str, Any]], item: dict[str, Any], where: str) -> None:
    parts = item.get("content")
    if isinstance(parts, str):
        parts = [{"type": "output_text", "text": parts}]
    last = messages[-1] if messages else {}
    message = _assistant(messages, new=_says(last) and "tool_calls" not in last)
    for place, part in objects(parts, f"{where}.content"):
        if part.get("type") == "refusal":
            message["refusal"] = text(part.get("refusal"), f"{place}.refusal")
            continue
        said = _part(part, place)["text"] if part.get("type") in _TEXTS else None
        if said is None:
            raise wrong(f"{place}.type", f"an agent says output_text; got {part.get('type')!r}")
        message["content"] = _joined(message["content"], said)


def _says(message: dict[str, Any]) -> bool:
    return message.get("content") is not None or "refusal" in message


def _joined(content: str | list[dict[str, Any]] | None, more: str) -> str | list[dict[str, Any]]:
    """One text stays text; several are kept apart."""
    if content is None:
        return more
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [*parts, {"type": "text", "text": more}]


_TEXTS = ("input_text", "output_text", "text")


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
        return {"type": "image_url", "image_url": image | _some(part, "detail")}
    if kind == "input_file" and "file_url" not in part:
        return {"type": "file", "file": _some(part, "file_id", "file_data", "filename")}
    raise wrong(f"{where}.type", f"parts of type {kind!r} are not known here")


def _some(part: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: part[name] for name in names if name in part}


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


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        what = f"tools are functions of the caller's; got {tool.get('type')!r}"
        raise wrong(f"{where}.type", what)
    text(tool.get("name"), f"{where}.name")
    function = {name: value for name, value in tool.items() if name != "type"}
    return {"type": "function", "function": function}


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, str):
        return choice
    chosen = fields(choice, "tool_choice")
    if chosen.get("type") == "function":
        name = text(chosen.get("name"), "tool_choice.name")
        return {"type": "function", "function": {"name": name}}
    if chosen.get("type") == "allowed_tools":
        tools = [
            {"type": "function", "function": {"name": text(tool.get("name"), f"{where}.name")}}
            for where, tool in objects(chosen.get("tools"), "tool_choice.tools")
        ]
        allowed = {"mode": chosen.get("mode", "auto"), "tools": tools}
        return {"type": "allowed_tools", "allowed_tools": allowed}
    what = f"tools are functions of the caller's; got {chosen.get('type')!r}"
    raise wrong("tool_choice.type", what)


def _format(body: dict[str, Any]) -> dict[str, Any]:
    given = fields(body.get("text", {}), "text")
    only(given, {"format", "verbosity"}, "text")
    chat = _some(given, "verbosity")
    form = fields(given.get("format", {"type": "text"}), "text.format")
    kind = form.pop("type", None)
    if kind == "json_schema":
        return chat | {"response_format": {"type": kind, "json_schema": form}}
    if kind == "json_object":
        return chat | {"response_format": {"type": kind}}
    if kind != "text":
        raise wrong("text.format.type", f"text, json_schema or json_object; got {kind!r}")
    return chat


def _reasoning(body: dict[str, Any]) -> dict[str, Any]:
    given = fields(body.get("reasoning", {}), "reasoning")
    only(given, {"effort", "summary", "generate_summary"}, "reasoning")
    return {"reasoning_effort": given["effort"]} if "effort" in given else {}
