"""One choice of a chat completion, put together from its stream. Knows nothing of HTTP.

What comes out is the choice as the endpoint would have answered it without ``stream``: text and
arguments of tools are joined, every other field is taken as it came.
"""

from __future__ import annotations

import json
import math
from typing import Any

from pilotfish import Message
from search.contracts import Sample

_COMMON = frozenset({"id", "object", "created", "model", "choices", "usage"})
_COUNTS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})


class Choice:
    """One choice while its chunks come in."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.message: dict[str, Any] = {"role": "assistant"}
        self.other: dict[str, Any] = {}
        self.finish_reason: str | None = None
        self._texts: dict[str, list[str]] = {}
        self._arguments: dict[int, list[str]] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._logprobs: list[dict[str, Any]] = []
        self._chunks = 0

    def add(self, chunk: dict[str, Any]) -> None:
        """Take one element of a chunk's ``choices``."""
        for name, value in (chunk.get("delta") or {}).items():
            self._add_delta(name, value)
        if logprobs := chunk.get("logprobs"):
            self._logprobs += logprobs.get("content") or []
        self.finish_reason = chunk.get("finish_reason") or self.finish_reason
        for name, value in chunk.items():
            if name not in ("index", "delta", "logprobs", "finish_reason") and value is not None:
                self.other[name] = value
        self._chunks += 1

    def _add_delta(self, name: str, value: Any) -> None:
        if name == "tool_calls":
            for call in value or []:
                self._add_call(call)
        elif isinstance(value, str) and name != "role":
            self._texts.setdefault(name, []).append(value)
        elif value is not None:
            self.message[name] = value

    def _add_call(self, chunk: dict[str, Any]) -> None:
        position = chunk.get("index", len(self._calls))
        call = self._calls.setdefault(position, {"id": None, "type": "function", "function": {}})
        for name, value in chunk.items():
            if name not in ("index", "function") and value is not None:
                call[name] = value
        for name, value in (chunk.get("function") or {}).items():
            if name == "arguments":
                self._arguments.setdefault(position, []).append(value or "")
            elif value is not None:
                call["function"][name] = value

    @property
    def tokens(self) -> int:
        """Tokens as far as the stream shows them."""
        return len(self._logprobs) or max(0, self._chunks - 1)

    def finish(self) -> dict[str, Any]:
        """The whole choice."""
        message = dict(self.message)
        message["content"] = None
        message |= {name: "".join(parts) for name, parts in self._texts.items()}
        calls = [call for _, call in sorted(self._calls.items())]
        for position, call in sorted(self._calls.items()):
            call["function"]["arguments"] = "".join(self._arguments.get(position, []))
        if calls:
            message["tool_calls"] = calls
            message["content"] = message["content"] or None
        return {
            "index": self.index,
            "message": message,
            "logprobs": {"content": self._logprobs} if self._logprobs else None,
            "finish_reason": self.finish_reason,
            **self.other,
        }


def prompt_tokens_of(answer: dict[str, Any]) -> int:
    """What its usage says, 0 where it says nothing. Raises: ``ValueError`` for what is no count."""
    count = (answer.get("usage") or {}).get("prompt_tokens") or 0
    if not isinstance(count, int) or count < 0:
        raise ValueError(f"{count!r} prompt tokens")
    return count


def beside_choices(answer: dict[str, Any]) -> dict[str, Any]:
    """What an answer, or a chunk of one, has beside what every answer has: fields that we do not
    know, and the details of its usage. Raises: ``ValueError``."""
    usage = {k: v for k, v in (answer.get("usage") or {}).items() if k not in _COUNTS}
    other = {k: v for k, v in answer.items() if k not in _COMMON and v is not None}
    other |= {"usage": usage} if usage else {}
    if other:  # most chunks have nothing
        _check(other)
    return other


def _check(said: dict[str, Any]) -> None:
    """Whether it can be given back. Raises: ``ValueError`` for NaN or half of a surrogate pair."""
    json.dumps(said, ensure_ascii=False, allow_nan=False).encode()


def sample_of(
    choice: dict[str, Any],
    *,
    tokens: int,
    prompt_tokens: int,
    answer: dict[str, Any] | None = None,
) -> Sample:
    """A sample from a whole choice. ``raw`` keeps it as it came; the message, which goes into the
    history, is without the fields that the endpoint left empty.

    Raises: ``ValueError`` and its like for what is no choice of a chat completion.
    """
    _check({name: value for name, value in choice.items() if name != "logprobs"})  # they are long
    said = {name: value for name, value in choice["message"].items() if value not in (None, [])}
    content = (choice.get("logprobs") or {}).get("content")
    message = Message.model_validate({"role": "assistant", "content": None, **said})
    if message.role != "assistant":
        raise ValueError(f"a choice of role {message.role}")
    _ = message.text  # whether its parts are text
    logprob = sum(token["logprob"] for token in content) if content else None
    if logprob is not None and not math.isfinite(logprob):
        raise ValueError(f"a log-probability of {logprob}")
    for call in message.tool_calls or []:
        if not isinstance(call.get("function", {"name": ""})["name"], str):
            raise TypeError("a tool call without a name")
        if not isinstance(call.get("id"), str | None):
            raise TypeError(f"the id of a tool call is {call['id']!r}")
    return Sample(
        index=choice["index"],
        message=message,
        logprob=logprob,
        tokens=len(content) if content else tokens,
        prompt_tokens=prompt_tokens,
        finish_reason=choice.get("finish_reason"),
        raw=choice,
        answer=answer or {},
    )
