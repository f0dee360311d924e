"""What a policy answered without guidance, as a decision for one candidate: so that a session has
its whole trajectory. Knows no HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pilotfish import Candidate, Decision
from service.policies.choices import Choice, prompt_tokens_of, sample_of


def decided_by(answer: dict[str, Any]) -> Decision | None:
    """From a chat completion; ``None`` where it is none."""
    try:
        usage = answer.get("usage") or {}
        sample = sample_of(
            answer["choices"][0],
            tokens=usage.get("completion_tokens") or 0,
            prompt_tokens=prompt_tokens_of(answer),
        )
        candidate = Candidate(
            index=0,
            message=sample.message,
            logprob=sample.logprob,
            tokens=sample.tokens,
            finish_reason=sample.finish_reason,
        )
        return Decision(
            candidates=[candidate],
            requested=1,
            chosen=0,
            reason="only",
            prompt_tokens=sample.prompt_tokens,
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None


def put_together(chunks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """A chat completion, of its first choice, from its chunks."""
    choice = Choice(0)
    usage: dict[str, Any] = {}
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        for element in chunk.get("choices") or []:
            if element.get("index", 0) == 0:
                choice.add(element)
    counted = {"completion_tokens": choice.tokens} | usage
    return {"choices": [choice.finish()], "usage": counted}


def chunks_in(stream: bytes) -> list[dict[str, Any]]:
    """The chunks of a whole stream of server-sent events; what is none is left out."""
    chunks = []
    for line in stream.split(b"\n"):
        if line.startswith(b"data:") and not line.endswith(b"[DONE]"):
            try:
                chunk = json.loads(line[5:])
            except ValueError:
                continue
            if isinstance(chunk, dict):
                chunks.append(chunk)
    return chunks
