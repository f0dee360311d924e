"""What an agent turn says, piece by piece: of the chunks of a chat completion, or of a whole one.
Knows no other format."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from search.errors import PolicyError

_COMMON = frozenset({"id", "object", "created", "model", "choices", "usage", "pilotfish"})


class Piece(NamedTuple):
    """Some text of one kind. Of a call it is arguments, and ``position`` says of which call."""

    kind: Literal["reasoning", "text", "refusal", "call"]
    text: str
    position: int = 0
    id: str = ""
    name: str = ""
    logprobs: tuple[dict[str, Any], ...] = ()


class Turn:
    """The first choice as it comes in. ``beside`` is what the policy said that is no part of every
    chat completion."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.stop_reason: Any = None
        """vLLM's: the stop sequence that was met."""
        self.usage: dict[str, Any] = {}
        self.pilotfish: dict[str, Any] | None = None
        self.beside: dict[str, Any] = {}
        self._calls: dict[int, tuple[str, str]] = {}
        self._ended = False

    def add(self, said: dict[str, Any]) -> list[Piece]:
        """Reasoning before text before calls. Raises: ``PolicyError`` for what is no chunk."""
        try:
            return list(self._pieces(said))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"not a chat completion: {str(said)[:200]}") from error

    def end(self) -> None:
        """Raises: ``PolicyError`` where the chunks ended before the turn did."""
        if not self._ended:
            raise PolicyError("it ended before the answer did")
        if self._calls and self.finish_reason in (None, "stop"):
            self.finish_reason = "tool_calls"  # vLLM says stop where the tool was prescribed

    def _pieces(self, said: dict[str, Any]) -> Iterator[Piece]:
        self.usage = _usage(said.get("usage") or self.usage)
        self.pilotfish = said.get("pilotfish") or self.pilotfish
        for name, value in said.items():
            if name not in _COMMON and value is not None:
                self.beside[name] = value
        for choice in said.get("choices") or []:
            if not choice.get("index"):
                yield from self._of_choice(choice)

    def _of_choice(self, choice: dict[str, Any]) -> Iterator[Piece]:
        said = choice.get("delta") or choice.get("message") or {}
        logprobs = (choice.get("logprobs") or {}).get("content") or ()
        if reasoning := _text(said.get("reasoning_content") or said.get("reasoning")):
            yield Piece("reasoning", reasoning)
        if text := _text(said.get("content")):
            yield Piece("text", text, logprobs=tuple(logprobs))
        if refusal := _text(said.get("refusal")):
            yield Piece("refusal", refusal)
        for place, call in enumerate(said.get("tool_calls") or ()):
            yield self._of_call(call, call.get("index", place))
        self.finish_reason = _text(choice.get("finish_reason")) or self.finish_reason
        self.stop_reason = choice.get("stop_reason") or self.stop_reason
        self._ended = self._ended or bool(self.finish_reason) or "message" in choice

    def _of_call(self, call: dict[str, Any], position: int) -> Piece:
        function = call.get("function") or {}
        if position not in self._calls:
            name, known = _text(function["name"]), _text(call.get("id"))
            self._calls[position] = known or f"call_{uuid.uuid4().hex}", name
        arguments = _text(function.get("arguments"))
        return Piece("call", arguments, position, *self._calls[position])


def _text(content: Any) -> str:
    """Of text, or of parts that have some. Raises: ``TypeError`` and its like for what is none."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    if not isinstance(content, str | None):
        raise TypeError(f"{content!r} is no text")
    return content or ""


def _usage(said: dict[str, Any]) -> dict[str, Any]:
    """Raises: ``TypeError`` and its like where it counts with other things than numbers."""
    details = [said.get(f"{kind}_tokens_details") or {} for kind in ("prompt", "completion")]
    for counts in (said, *details):
        for name, count in counts.items():
            if name.endswith("_tokens") and not isinstance(count, int | None):
                raise TypeError(f"{count!r} tokens")
    return dict(said)
