"""A request of Anthropic's Messages API, and the chat completion that it asks for. Knows nothing of
its answer."""

from __future__ import annotations

import json
from typing import Any

from service.wire.fields import fields, flag, objects, only, refuse, some, text, wrong

FAILED = "Error: "
"""Before the result of a call that failed: chat has no field for that."""

_REFUSED = {
    "container": "nothing is executed here",
    "mcp_servers": "nothing is executed here",
    "prefill": "an answer that was begun cannot be gone on with",
    "inference_geo": "where the policy runs is not chosen by a request",
    "diagnostics": "there are none",
    "n": "a message is one; the candidates are in pilotfish.candidates",
    "best_of": "use pilotfish.k",
    "logprobs": "a message has no place for them",
    "top_logprobs": "a message has no place for them",
    "stop": "this API's is called stop_sequences",
    "max_completion_tokens": "this API's is called max_tokens",
    "response_format": "this API's is called output_config.format",
    "reasoning_effort": "this API's is called output_config.effort",
    "stream_options": "every stream ends with its usage",
}
_TRANSLATED = frozenset({
    "system", "messages", "tools", "tool_choice", "stop_sequences", "metadata", "thinking",
    "output_config", "context_management", "cache_control", "service_tier", "speed",
})  # fmt: skip


def chat_of(body: dict[str, Any], *, counting: bool = False) -> dict[str, Any]:
    """The body of the chat completion; for ``counting`` only the prompt needs to be whole. Raises:
    ``ApiError`` 400 naming what is wrong or cannot be honoured."""
    body = {name: value for name, value in body.items() if value is not None}
    refuse(body, _REFUSED)
    _without_effect(body)
    most = body.get("max_tokens")
    if not counting and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise wrong("max_tokens", f"a number from 1 is needed; got {most!r}")
    chat = {name: value for name, value in body.items() if name not in _TRANSLATED}
    chat["messages"] = _system(body.get("system")) + messages_of(body.get("messages"))
    if "tools" in body:
        chat["tools"] = [_tool(tool, where) for where, tool in objects(body["tools"], "tools")]
    if "stop_sequences" in body:
        chat["stop"] = _stops(body["stop_sequences"])
    if body.get("stream") is True:
        chat["stream_options"] = {"include_usage": True}
    metadata = fields(body.get("metadata", {}), "metadata")
    only(metadata, {"user_id"}, "metadata")
    if "user_id" in metadata:
        chat["user"] = metadata["user_id"]
    return chat | _tool_choice(body) | _thinking(body) | _output(body)


def messages_of(given: Any) -> list[dict[str, Any]]:
    """Chat messages that say what ``given`` do: results of calls are messages of their own there.

    >>> result = {"type": "tool_result", "tool_use_id": "t", "content": "a.py"}
    >>> messages_of([{"role": "user", "content": [result, {"type": "text", "text": "Go on."}]}])[0]
    {'role': 'tool', 'tool_call_id': 't', 'content': 'a.py'}
    """
    messages: list[dict[str, Any]] = []
    for where, message in objects(given, "messages"):
        role, content = message.get("role"), message.get("content")
        if role not in ("user", "assistant", "system"):
            raise wrong(f"{where}.role", f"user or assistant; got {role!r}")
        if isinstance(content, str):
            messages.append({"role": role, "content": content})
        elif role == "assistant":
            messages.append(_assistant(objects(content, f"{where}.content")))
        else:
            messages += _told(role, objects(content, f"{where}.content"))
    if messages and messages[-1]["role"] == "assistant":
        raise wrong(f"messages.{len(given) - 1}.role", _REFUSED["prefill"])
    return messages


def _without_effect(body: dict[str, Any]) -> None:
    """What may stand there although nothing is done by it; of context management, what asks for
    the context to stay as it is."""
    if body.get("speed", "standard") != "standard":
        raise wrong("speed", "the policy has one speed")
    managed = fields(body.get("context_management", {}), "context_management")
    only(managed, {"edits"}, "context_management")
    for where, edit in objects(managed.get("edits", []), "context_management.edits"):
        if edit.get("keep") != "all":
            raise wrong(where, "the context is the caller's to manage")


def _stops(given: Any) -> list[str]:
    if not isinstance(given, list):
        raise wrong("stop_sequences", "a list is needed")
    return [text(one, f"stop_sequences.{i}") for i, one in enumerate(given)]


def _system(given: Any) -> list[dict[str, Any]]:
    if given is None or isinstance(given, str):
        return [{"role": "system", "content": given}] if given else []
    parts = [_part(block, where) for where, block in objects(given, "system")]
    return [{"role": "system", "content": parts}] if parts else []


def _told(role: str, blocks: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Results first: chat wants them right behind their calls."""
    results = [_result(b, where) for where, b in blocks if b.get("type") == "tool_result"]
    parts = [_part(b, where) for where, b in blocks if b.get("type") != "tool_result"]
    return results + ([{"role": role, "content": parts}] if parts or not results else [])


def _result(block: dict[str, Any], where: str) -> dict[str, Any]:
    content: Any = block.get("content", "")
    failed = flag(block.get("is_error", False), f"{where}.is_error")
    if isinstance(content, str):
        content = FAILED + content if failed else content
    else:
        content = [_part(part, place) for place, part in objects(content, f"{where}.content")]
        content = [{"type": "text", "text": FAILED}, *content] if failed else content
    called = text(block.get("tool_use_id"), f"{where}.tool_use_id")
    return {"role": "tool", "tool_call_id": called, "content": content}


def _part(block: dict[str, Any], where: str) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "text": text(block.get("text"), f"{where}.text")}
    if kind == "image":
        url = _url(fields(block.get("source"), f"{where}.source"), f"{where}.source")
        return {"type": "image_url", "image_url": {"url": url}}
    raise wrong(f"{where}.type", f"blocks of type {kind!r} are not known here")


def _url(source: dict[str, Any], where: str) -> str:
    if source.get("type") == "base64":
        media, data = (text(source.get(name), f"{where}.{name}") for name in ("media_type", "data"))
        return f"data:{media};base64,{data}"
    if source.get("type") == "url":
        return text(source.get("url"), f"{where}.url")
    raise wrong(f"{where}.type", f"base64 or url; got {source.get('type')!r}")


def _assistant(blocks: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for where, block in blocks:
        kind = block.get("type")
        if kind == "text":
            texts.append(text(block.get("text"), f"{where}.text"))
        elif kind == "thinking":
            thoughts.append(text(block.get("thinking"), f"{where}.thinking"))
        elif kind == "tool_use":
            calls.append(_call(block, where))
        else:
            raise wrong(f"{where}.type", f"blocks of type {kind!r} are not known here")
    parts = [{"type": "text", "text": one} for one in texts]
    message: dict[str, Any] = {"role": "assistant"}
    message["content"] = (parts if len(parts) > 1 else texts[0]) if texts else None
    if any(thoughts):
        message["reasoning_content"] = "\n".join(thoughts)
    return message | ({"tool_calls": calls} if calls else {})


def _call(block: dict[str, Any], where: str) -> dict[str, Any]:
    called, name = (text(block.get(field), f"{where}.{field}") for field in ("id", "name"))
    given = block.get("input")
    if not isinstance(given, dict):
        raise wrong(f"{where}.input", "an object is needed")
    function = {"name": name, "arguments": json.dumps(given, ensure_ascii=False)}
    return {"id": called, "type": "function", "function": function}


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type", "custom") != "custom":
        raise wrong(f"{where}.type", f"tools are the caller's own; got {tool['type']!r}")
    without_effect = {"type", "cache_control", "eager_input_streaming"}
    only(tool, {"name", "description", "input_schema", "strict", *without_effect}, where)
    name, schema = text(tool.get("name"), f"{where}.name"), tool.get("input_schema")
    if not isinstance(schema, dict):
        raise wrong(f"{where}.input_schema", "an object is needed")
    function = {"name": name, "parameters": schema} | some(tool, "description", "strict")
    return {"type": "function", "function": function}


_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def _tool_choice(body: dict[str, Any]) -> dict[str, Any]:
    if "tool_choice" not in body:
        return {}
    choice = fields(body["tool_choice"], "tool_choice")
    only(choice, {"type", "name", "disable_parallel_tool_use"}, "tool_choice")
    kind = choice.get("type")
    chat: dict[str, Any] = {}
    if flag(choice.get("disable_parallel_tool_use", False),
            "tool_choice.disable_parallel_tool_use"):  # fmt: skip
        chat["parallel_tool_calls"] = False
    if kind == "tool":
        named = {"name": text(choice.get("name"), "tool_choice.name")}
        return chat | {"tool_choice": {"type": "function", "function": named}}
    if not isinstance(kind, str) or kind not in _CHOICES:
        raise wrong("tool_choice.type", f"auto, any, tool or none; got {kind!r}")
    return chat | {"tool_choice": _CHOICES[kind]}


def _thinking(body: dict[str, Any]) -> dict[str, Any]:
    """By the field that templates read. How much is thought is bounded by ``max_tokens`` alone."""
    if "thinking" not in body:
        return {}
    thinking = fields(body["thinking"], "thinking")
    only(thinking, {"type", "budget_tokens", "display"}, "thinking")
    if thinking.get("type") not in ("enabled", "adaptive", "disabled"):
        what = f"enabled, adaptive or disabled; got {thinking.get('type')!r}"
        raise wrong("thinking.type", what)
    if thinking.get("display", "summarized") != "summarized":
        raise wrong("thinking.display", "what the policy thinks is given as it is")
    own = fields(body.get("chat_template_kwargs", {}), "chat_template_kwargs")
    return {"chat_template_kwargs": {"enable_thinking": thinking["type"] != "disabled"} | own}


def _output(body: dict[str, Any]) -> dict[str, Any]:
    given = fields(body.get("output_config", {}), "output_config")
    only(given, {"effort", "format"}, "output_config")
    chat: dict[str, Any] = {}
    if "effort" in given:
        chat["reasoning_effort"] = given["effort"]
    if "format" in given:
        form = fields(given["format"], "output_config.format")
        if form.get("type") != "json_schema":
            raise wrong("output_config.format.type", f"json_schema; got {form.get('type')!r}")
        schema = {"name": "answer", "schema": form.get("schema"), "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    return chat
