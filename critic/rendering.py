"""From a message history to tokens, and where each agent turn ends. Knows nothing of values.

Rendering is *append-only*: the tokens of a longer history begin with the tokens of the shorter one.
That is what lets one pass train all turns, and lets serving reuse its prefix cache. It is had by
rendering a history segment by segment (the first messages; then each agent turn, and each run of
replies between two of them), each behind a fixed stub instead of behind the whole history, so that
rendering costs what is new. A chat template whose output depends on more than that (one that drops
earlier reasoning, say) is refused when it is loaded.

A history longer than the critic reads is seen through a *window* (``critic/window.py``): the first
messages (the task), and the newest turns. Between two moves of the window rendering is append-only
as ever. It stands where it stands in training as in serving: each turn's Q is read in the window of
its own state.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from jinja2.exceptions import TemplateError

from critic.errors import CriticInputError, HistoryTooLong, NotAppendOnly, NotRendered
from critic.window import readable, window_starts
from pilotfish import Message

RENDERING_VERSION = 1

_USER = Message.user("u")
_TURN = Message.assistant("a")
_PROBE = [
    Message.system("s"),
    Message.user("task"),
    Message.assistant("<think>\nfirst thought\n</think>\n\nfirst answer"),
    Message.user("observation"),
    Message.assistant("second answer"),
    Message.user("another"),
    Message.assistant("third answer"),
]


@dataclass(frozen=True)
class Rendered:
    """Tokens of a history, or of a window of it."""

    ids: list[int]
    """(tokens,)"""
    turn_ends: list[int]
    """(turns,) position of the token that ends each agent turn whose Q is read here."""


@dataclass(frozen=True)
class _Turn:
    """Tokens of an agent turn up to its end, and of what follows it until the next."""

    said: tuple[int, ...]
    then: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.said) + len(self.then)


@dataclass(frozen=True)
class _Segment:
    """Messages that are rendered together, and what tells them from others."""

    messages: list[Message] = field(compare=False)
    after_turn: bool
    """Whether they stand behind an agent turn."""
    key: Hashable


class Renderer:
    """Renders with a tokenizer's chat template."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_tokens: int | None = None,
        policy_in_prompt: bool = False,
        policy: str = "unknown",
    ) -> None:
        """``tokenizer``: a Hugging Face tokenizer with a chat template. ``policy_in_prompt`` puts
        the policy's name into the system message, since Q is of a policy; ``policy`` is that of
        callers who name none.

        Raises: ``NotAppendOnly``; ``CriticInputError`` without a chat template.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise CriticInputError("the tokenizer has no chat template")
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.policy_in_prompt, self.policy = policy_in_prompt, policy
        self._stubs: dict[bool, tuple[list[Message], str]] = {}
        for after_turn in (False, True):
            stub = [_USER, _TURN] if after_turn else [_USER]
            self._stubs[after_turn] = (stub, self._text(stub))
        # every candidate of every step renders the whole history, of which only its end is new
        self._tokens = lru_cache(maxsize=2048)(self._encode)
        self._behind_stub = lru_cache(maxsize=2048)(self._render_behind_stub)
        self._check()

    def windows(self, messages: Sequence[Message], *, policy: str | None = None) -> list[Rendered]:
        """Windows that hold the end of every agent turn once, oldest first: one, where the history
        is as short as the critic reads. Each ends with the last turn that is read in it.

        Raises: ``HistoryTooLong`` where the first messages and any turn alone are too long;
        ``NotRendered`` where the template refuses a message; ``CriticInputError`` for an empty
        history.
        """
        first, turns = self._parts(messages, policy)
        found: list[Rendered] = []
        begin = -1
        for number, found_start in enumerate(self._starts(first, turns)):
            if number == len(turns):
                break  # of the turn that is not there yet
            start = readable(found_start)
            if start != begin:
                begin = start
                found.append(Rendered(_joined(first, turns[start:number]), []))
            window, turn = found[-1], turns[number]
            if window.turn_ends:
                window.ids.extend(turns[number - 1].then)
            window.ids.extend(turn.said)
            window.turn_ends.append(len(window.ids) - 1)
        return found

    def render(self, messages: Sequence[Message], *, policy: str | None = None) -> Rendered:
        """Tokens of the whole history, however long, and the end of every agent turn.

        Raises: ``CriticInputError`` for an empty history.
        """
        first, turns = self._parts(messages, policy)
        ids = list(first)
        ends: list[int] = []
        for turn in turns:
            ends.append(len(ids) + len(turn.said) - 1)
            ids += [*turn.said, *turn.then]
        return Rendered(ids, ends)

    def render_state(self, state: Sequence[Message], *, policy: str | None = None) -> list[int]:
        """Tokens of the window in which the state's next turn is read.

        Raises: as ``windows``.
        """
        first, turns = self._parts(state, policy)
        *_, start = self._starts(first, turns)
        return _joined(first, turns[readable(start) :])

    def render_action(
        self, state: Sequence[Message], action: Message, *, policy: str | None = None
    ) -> list[int]:
        """Tokens of the state's window and one agent turn, up to where its Q is read.

        Raises: as ``windows``.
        """
        if action.role != "assistant":
            raise CriticInputError(f"an action is an assistant's message; got one of {action.role}")
        first, turns = self._parts([*state, action], policy)
        *_, start, _ = self._starts(first, turns)
        return [*_joined(first, turns[readable(start) : -1]), *turns[-1].said]

    def _parts(
        self, messages: Sequence[Message], policy: str | None
    ) -> tuple[tuple[int, ...], list[_Turn]]:
        """The first messages, and the turns."""
        if not messages:
            raise CriticInputError("the history has no messages")
        first: tuple[int, ...] = ()
        turns: list[_Turn] = []
        for text, is_turn in self._segments(self._with_policy(messages, policy)):
            if is_turn:
                said, then = self._split(text)
                turns.append(_Turn(self._tokens(said), self._tokens(then)))
            elif turns:
                turns[-1] = _Turn(turns[-1].said, turns[-1].then + self._tokens(text))
            else:
                first = self._tokens(text)
        return first, turns

    def _starts(self, first: Sequence[int], turns: list[_Turn]) -> Iterator[int | HistoryTooLong]:
        """For each turn, and for one that would follow, the first turn of its window."""
        lengths = [(len(turn.said), len(turn)) for turn in turns]
        return window_starts(len(first), lengths, self.max_tokens, "tokens")

    def _with_policy(self, messages: Sequence[Message], policy: str | None) -> list[Message]:
        history = list(messages)
        if not self.policy_in_prompt:
            return history
        line = f"policy: {policy or self.policy}"
        if history[0].role in ("system", "developer"):
            history[0] = Message.system(f"{history[0].text}\n{line}")
            return history
        return [Message.system(line), *history]

    def _segments(self, messages: list[Message]) -> Iterator[tuple[str, bool]]:
        """Text of each segment, and whether it is an agent turn."""
        start = 0
        while start < len(messages):
            is_turn = messages[start].role == "assistant"
            end = start + 1
            while not is_turn and end < len(messages) and messages[end].role != "assistant":
                end += 1
            segment = messages[start:end]
            if start == 0 and not is_turn:
                yield self._text(segment), False
            else:
                key = tuple(map(_key, segment))
                yield self._behind_stub(_Segment(segment, not is_turn, key)), is_turn
            start = end

    def _render_behind_stub(self, segment: _Segment) -> str:
        stub, stub_text = self._stubs[segment.after_turn]
        text = self._text([*stub, *segment.messages])
        if not text.startswith(stub_text):
            raise NotAppendOnly(_EXPLAIN)
        return text[len(stub_text) :]

    def _split(self, text: str) -> tuple[str, str]:
        """An agent turn up to its end token, and what the template writes after that."""
        end = self.tokenizer.eos_token
        if end and end in text:
            cut = text.rindex(end) + len(end)
            return text[:cut], text[cut:]
        return text.rstrip("\n"), text[len(text.rstrip("\n")) :]

    def _text(self, messages: Sequence[Message]) -> str:
        try:
            rendered = self.tokenizer.apply_chat_template(
                [_for_template(m) for m in messages], tokenize=False, add_generation_prompt=False
            )
        except (TemplateError, AttributeError, TypeError) as error:
            raise NotRendered(f"the critic's chat template fails here: {error}") from error
        return str(rendered)

    def _encode(self, text: str) -> tuple[int, ...]:
        if not text:
            return ()
        try:
            return tuple(self.tokenizer.encode(text, add_special_tokens=False))
        except TypeError as error:  # half of a surrogate pair
            raise NotRendered(f"the critic's tokenizer cannot read this: {error}") from error

    def _check(self) -> None:
        """The segments of a probe, put together, are what the template makes of the whole of it,
        at every length."""
        for length in range(2, len(_PROBE) + 1):
            probe = _PROBE[:length]
            if "".join(text for text, _ in self._segments(probe)) != self._text(probe):
                raise NotAppendOnly(_EXPLAIN)


def _joined(first: Sequence[int], turns: Sequence[_Turn]) -> list[int]:
    ids = list(first)
    for turn in turns:
        ids += [*turn.said, *turn.then]
    return ids


_EXPLAIN = (
    "the chat template is not append-only: what it writes for a turn changes with later turns "
    "(it may drop earlier reasoning). Give the critic's tokenizer a template without that."
)


def _key(message: Message) -> Hashable:
    """All that ``_for_template`` takes of it."""
    calls = repr(message.tool_calls) if message.tool_calls else ""
    return message.role, message.text, calls, message.tool_call_id


def _for_template(message: Message) -> dict[str, Any]:
    """The message as templates expect it: plain text content, arguments of tools kept."""
    rendered: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.tool_calls:
        rendered["tool_calls"] = [_with_arguments(call) for call in message.tool_calls]
    if message.tool_call_id:
        rendered["tool_call_id"] = message.tool_call_id
    return rendered


def _with_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """The call with its arguments as the object that they are: on the wire they are its JSON, which
    templates would encode again, or fail to go through."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):  # as the policy wrote it
        return call
    return call | {"function": function | {"arguments": arguments}}
