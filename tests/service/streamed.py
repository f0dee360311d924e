"""A message as some policy would stream it; requests and answers with something wrong in them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st


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


def replaced(value: Any, path: list[int], other: Any) -> Any:
    """``value`` with ``other`` in the place that ``path`` leads to."""
    if not path or not isinstance(value, dict | list) or not value:
        return other
    first, *rest = path
    if isinstance(value, list):
        at = first % len(value)
        return [replaced(one, rest, other) if i == at else one for i, one in enumerate(value)]
    name = sorted(value)[first % len(value)]
    return value | {name: replaced(value[name], rest, other)}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(0, 1) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
PLACE = st.lists(st.integers(0, 20), min_size=1, max_size=6)
ANSWER: dict[str, Any] = {
    "model": "up",
    "usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}},
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": {"content": [{"token": "t", "logprob": -1.0}]},
            "message": {
                "content": "text",
                "reasoning_content": "think",
                "refusal": "no",
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
        }
    ],
}
