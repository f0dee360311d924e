"""Chat completions: what a caller asked for, and a decision as the answer or its chunks. Knows no
HTTP, and nothing of how it was decided."""

from __future__ import annotations

import time
import uuid
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pilotfish import Decision, Message
from pilotfish.api import SESSION_ID, GuideOptions
from service.guiding import Recording
from service.sessions import Call


class CallOptions(GuideOptions):
    """How one call is guided, and what else it says in its ``pilotfish`` object."""

    session: str | None = Field(default=None, pattern=SESSION_ID)
    candidates: bool = False
    """Whether the answer shows all candidates."""


class ChatCall(BaseModel):
    """A chat completion request, understood."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    body: dict[str, Any]
    messages: list[Message]
    model: str
    """As the caller wrote it."""
    policy: str
    n: int
    stream: bool
    include_usage: bool
    guide: bool
    k: int
    options: CallOptions
    known: Call
    """What is known of its session."""


def answer_of(call: ChatCall, decision: Decision, recording: Recording) -> dict[str, Any]:
    ranked = sorted(
        (c for c in decision.candidates if c.message is not None and c.index != decision.chosen),
        key=lambda c: (c.q is None, -(c.q or 0.0), c.index),
    )
    indices = [decision.chosen, *(c.index for c in ranked)][: call.n]
    usage = decision.usage
    upstream = recording.answer
    return upstream | {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": call.model,
        "choices": [_choice(i, recording.samples[index].raw, recording.samples[index].message, call)
                    for i, index in enumerate(indices)],
        "usage": upstream.get("usage", {})
        | {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
        "pilotfish": _report(call, decision),
    }  # fmt: skip


def _choice(
    index: int, raw: dict[str, Any], message: Message | None, call: ChatCall
) -> dict[str, Any]:
    """The candidate as the policy gave it, with its place in this answer."""
    if not raw and message is not None:
        raw = {"message": message.wire(), "finish_reason": "stop"}
    choice = {"finish_reason": None, "logprobs": None} | raw | {"index": index}
    if not call.body.get("logprobs"):
        choice["logprobs"] = None
    return choice


def _report(call: ChatCall, decision: Decision) -> dict[str, Any]:
    winner = decision.winner
    report: dict[str, Any] = {
        "session": call.known.session,
        "k": decision.requested,
        "chosen": decision.chosen,
        "q": winner.q,
        "spread": winner.spread,
        "reason": decision.reason,
        "degraded": decision.degraded,
        "notes": decision.notes,
        "seconds": round(decision.seconds, 4),
        "policy_seconds": round(decision.policy_seconds, 4),
        "winner_tokens": winner.tokens,
    }
    if call.options.candidates:
        report["candidates"] = [
            c.model_dump(mode="json", exclude={"message"})
            | {"message": c.message.wire() if c.message else None}
            for c in decision.candidates
        ]
    return report


def headers_of(call: ChatCall, decision: Decision) -> dict[str, str]:
    headers = {
        "x-pilotfish-candidates": str(sum(c.message is not None for c in decision.candidates)),
        "x-pilotfish-reason": decision.reason,
        "x-pilotfish-degraded": str(decision.degraded).lower(),
        **session_header(call),
    }
    if decision.winner.q is not None:
        headers["x-pilotfish-score"] = f"{decision.winner.q:.6f}"
    return headers


def session_header(call: ChatCall) -> dict[str, str]:
    """What a caller may name to go on with its session."""
    return {"x-pilotfish-session": call.known.session}


def chunks_of(answer: dict[str, Any], call: ChatCall) -> list[dict[str, Any]]:
    """The answer as the upstream would have streamed it: role, text, tool calls, end, usage."""
    ours = ("choices", "usage", "pilotfish")
    head = {name: value for name, value in answer.items() if name not in ours}
    head["object"] = "chat.completion.chunk"
    chunks = []
    for choice in answer["choices"]:
        message = dict(choice["message"])
        role = message.pop("role", "assistant")
        calls = message.pop("tool_calls", None) or []
        deltas: list[dict[str, Any]] = [{"role": role, "content": ""}]
        said = {name: value for name, value in message.items() if value not in (None, "", [])}
        text = {"content": said.pop("content")} if "content" in said else {}  # thought of first
        deltas += [{name: value} for name, value in (said | text).items()]
        deltas += [{"tool_calls": [call | {"index": i}]} for i, call in enumerate(calls)]
        for delta in deltas:
            shown = choice["logprobs"] if delta.get("content") else None
            part = {"index": choice["index"], "delta": delta, "logprobs": shown}
            chunks.append(head | {"choices": [part | {"finish_reason": None}]})
        end = {"index": choice["index"], "delta": {}, "logprobs": None}
        chunks.append(head | {"choices": [end | {"finish_reason": choice["finish_reason"]}]})
    chunks[-1]["pilotfish"] = answer["pilotfish"]
    if call.include_usage:
        chunks.append(head | {"choices": [], "usage": answer["usage"]})
    return chunks
