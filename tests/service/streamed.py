"""A message as some policy would stream it."""

from __future__ import annotations

from typing import Any


def chunks_of(message: dict[str, Any], cut: int) -> list[dict[str, Any]]:
    """In pieces of ``cut`` characters, its calls taking turns."""

    def pieces(text: str) -> list[str]:
        return [text[i : i + cut] for i in range(0, len(text), cut)]

    deltas: list[dict[str, Any]] = [{"role": "assistant"}]
    for name in ("reasoning_content", "content"):
        deltas += [{name: piece} for piece in pieces(message.get(name) or "")]
    calls = message.get("tool_calls", [])
    deltas += [
        {"tool_calls": [one | {"index": i, "function": {"name": "f", "arguments": ""}}]}
        for i, one in enumerate(calls)
    ]
    streams = [pieces(one["function"]["arguments"]) for one in calls]
    for at in range(max(map(len, streams), default=0)):
        deltas += [
            {"tool_calls": [{"index": i, "function": {"arguments": stream[at]}}]}
            for i, stream in enumerate(streams)
            if at < len(stream)
        ]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    return [*({"choices": [{"index": 0, "delta": delta}]} for delta in deltas), end, usage]
