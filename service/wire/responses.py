"""A request of OpenAI's Responses API, and the chat completion that it asks for. Knows nothing of
its answer, nor where earlier responses are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.wire.fields import fields, flag, objects, only, refuse, some, text, wrong
from service.wire.items import messages_of

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
        chat |= {"logprobs": True} | some(body, "top_logprobs")
    return chat | _format(body) | _reasoning(body)


def _items(given: Any, *, optional: bool) -> list[dict[str, Any]]:
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": given}]
    items = [item for _, item in objects([] if given is None and optional else given, "input")]
    if not items and not optional:
        raise wrong("input", "a text or at least one item is needed")
    return items


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
    chat = some(given, "verbosity")
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
