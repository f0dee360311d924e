"""Sessions: the calls of one outside agent, kept as a trajectory. Knows nothing of HTTP, nor how
they are stored.

An agent sends its whole history with every call. A history is known again by a digest that goes
message by message, so that of each call only what is new is kept, beside the digest of the history
that it goes on from. The calls of a session thus form a tree; its trajectory is the longest way
through it. A call that names no session belongs to the one that gave its last agent turn.

Some agents do not send back what they were answered but words of their own for it. In a session
that is named, a history goes on from a call that asked with its beginning, too.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import structlog

from pilotfish import Decision, Message, Step, Trajectory
from search.rollout import dump
from service.redis_connection import StateError
from service.redis_sessions import RedisSessions

log = structlog.get_logger()

LOOKED_BACK = 8
"""Agent turns, from the last, by which a history is looked for: a scaffold may drop some."""
_SHOWN = 200
"""Characters of what lists show of a session's task."""


@dataclass
class Call:
    """One call of a session, before and after it is decided."""

    session: str
    guide: dict[str, Any]
    """How the session is guided, where the call does not say."""
    base: str
    """Digest of the history that it goes on from; empty for one that begins anew."""
    new: list[Message]
    """What came since."""
    instead: int
    """How many of these the agent put in the place of what it was answered."""
    digest: str
    """Of the history that was sent."""


class Sessions:
    """All sessions. Where Redis fails, calls go on without being kept."""

    def __init__(self, state: RedisSessions) -> None:
        self.state = state

    async def call(self, messages: Sequence[Message], session: str | None) -> Call:
        """What is known of a call that sends this history."""
        digests = chain(messages)
        turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
        turns = turns[: -LOOKED_BACK - 1 : -1]
        # what a turn answered is looked for behind the turn itself
        places = [place for i in turns for place in (i, i - 1) if place >= 0]
        guide, found = None, None
        try:
            known = [digests[i] for i in places]
            session, guide, found = await self.state.opened(session, known)
        except StateError as error:
            log.warning("session not read", session=session, error=str(error))
        place, base = (places[found[0]], found[1]) if found else (-1, "")
        new = list(messages[place + 1 :])
        return Call(
            session=session or uuid.uuid4().hex,
            guide=guide or {},
            base=base,
            new=new,
            instead=_leading_turns(new) if found and base != digests[place] else 0,
            digest=digests[-1] if digests else "",
        )

    async def decided(
        self, call: Call, decision: Decision, *, model: str, critic: str | None
    ) -> None:
        """Keep what was decided in a call."""
        kept = {
            "at": time.time(),
            "base": call.base,
            "asked": call.digest,
            "instead": call.instead,
            "end": _next(call.digest, decision.message),
            "messages": [message.wire() for message in call.new],
            "model": model,
            "critic": critic,
            "decision": dump(decision),
        }
        shown = {"model": model, "critic": critic or "", "reason": decision.reason}
        if not call.base:
            shown["task"] = _task(call.new)[:_SHOWN]
        if decision.winner.q is not None:
            shown["q"] = f"{decision.winner.q:.6f}"
        usage = decision.usage
        counts = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "degraded": int(decision.degraded),
        }
        try:
            await self.state.add(call.session, kept, shown, counts)
        except StateError as error:
            log.warning("session not kept", session=call.session, error=str(error))

    async def trajectory(self, session: str) -> Trajectory:
        """Raises: ``SessionGone``; ``StateError``."""
        return trajectory_of(session, await self.state.calls(session))


def chain(messages: Sequence[Message]) -> list[str]:
    """The digest of the history up to and with each message."""
    digests: list[str] = []
    for message in messages:
        digests.append(_next(digests[-1] if digests else "", message))
    return digests


def trajectory_of(session: str, calls: Sequence[dict[str, Any]]) -> Trajectory:
    """The longest way through the tree of a session's calls, of equal ones the last."""
    depth: dict[str, int] = {}
    by_end: dict[str, dict[str, Any]] = {}
    last = ""
    for call in calls:
        end = call["end"]
        depth[end] = depth.get(call["base"], 0) + 1
        by_end[end] = call
        if depth[end] >= depth.get(last, 0):
            last = end
    path: list[dict[str, Any]] = []
    seen: set[str] = set()
    while last in by_end and last not in seen:
        seen.add(last)
        path.append(by_end[last])
        last = by_end[last]["base"]
    path.reverse()
    messages = [
        [Message.model_validate(m) for m in call["messages"][call.get("instead", 0) :]]
        for call in path
    ]
    steps = [Step(decision=Decision.model_validate(call["decision"])) for call in path]
    for step, replies in zip(steps, messages[1:], strict=False):
        step.replies = replies
    return Trajectory(
        id=session,
        task_id=session,
        policy=path[-1]["model"] if path else "",
        critic=path[-1]["critic"] if path else None,
        prefix=messages[0] if messages else [],
        steps=steps,
        started_at=path[0]["at"] if path else 0.0,
        seconds=path[-1]["at"] - path[0]["at"] if path else 0.0,
    )


def _leading_turns(messages: Sequence[Message]) -> int:
    return len(list(takewhile(lambda message: message.role == "assistant", messages)))


def _next(before: str, message: Message) -> str:
    """What scaffolds change when they send a turn back does not count: space around its text,
    fields beside text and tools, the form of the arguments' JSON."""
    calls = [call.get("function") or {} for call in message.tool_calls or []]
    said = [(call.get("name"), _canonical(call.get("arguments"))) for call in calls]
    parts = message.content if isinstance(message.content, list) else []
    other = [part for part in parts if part.get("type") != "text"]
    text = message.text.strip()
    key = json.dumps([message.role, text, other, said, message.tool_call_id], default=str)
    return hashlib.blake2b(f"{before} {key}".encode("utf-8", "replace"), digest_size=12).hexdigest()


def _canonical(arguments: Any) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return str(arguments)


def _task(messages: Sequence[Message]) -> str:
    """The first thing that a user said."""
    return next((m.text for m in messages if m.role == "user"), "")
