"""What the OpenAPI document says of the three formats that agents speak. Nothing is parsed by it:
fields that are not named here go to the policy, or come from it, as they are."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pilotfish import Candidate, Message
from service.wire.chat import CallOptions


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class _Request(_Open):
    model: str = Field(min_length=1)
    """A policy, maybe with ``:plain`` or ``:lookahead`` behind its name."""
    stream: bool | None = None
    """The answer is then server-sent events."""
    pilotfish: CallOptions | None = None


class ChatRequest(_Request):
    """OpenAI's chat completions. What is not named here goes to the policy as it is."""

    messages: list[Message] = Field(min_length=1)
    n: int | None = Field(default=None, ge=1, le=64)
    stream_options: dict[str, Any] | None = None


class ResponseRequest(_Request):
    """OpenAI's responses. Fields that cannot be honoured are refused, by name."""

    input: str | list[dict[str, Any]] | None = None
    """Needed where there is no ``previous_response_id``."""
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    store: bool | None = None


class TokensRequest(_Request):
    """Anthropic's prompt, to be counted."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    system: str | list[dict[str, Any]] | None = None


class MessagesRequest(TokensRequest):
    """Anthropic's messages. Fields that cannot be honoured are refused, by name."""

    max_tokens: int = Field(ge=1)


class Report(_Open):
    """What was decided."""

    session: str
    k: int
    chosen: int
    q: float | None
    """In [0, 1]."""
    spread: float | None
    """Its standard deviation."""
    reason: str
    degraded: bool
    notes: list[str]
    seconds: float
    policy_seconds: float
    winner_tokens: int
    candidates: list[Candidate] | None = None
    """All of them, where the request asks for that."""


class ChatChoice(_Open):
    index: int
    message: Message
    finish_reason: str | None = None


class _Answer(_Open):
    id: str
    model: str
    usage: dict[str, Any] | None = None
    pilotfish: Report | None = None
    """Not there where the call is not guided."""


class ChatCompletion(_Answer):
    """OpenAI's chat completion, as the policy gave it."""

    object: Literal["chat.completion"]
    created: int
    choices: list[ChatChoice]


class ResponseAnswer(_Answer):
    """OpenAI's response."""

    object: Literal["response"]
    status: str
    output: list[dict[str, Any]]


class MessageAnswer(_Answer):
    """Anthropic's message."""

    type: Literal["message"]
    role: Literal["assistant"]
    content: list[dict[str, Any]]
    stop_reason: str | None


class TokenCount(BaseModel):
    input_tokens: int


class DeletedResponse(BaseModel):
    id: str
    object: Literal["response"] = "response"
    deleted: bool


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    """Unix time, seconds."""
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class AnthropicModel(BaseModel):
    """A model, in Anthropic's shape."""

    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: datetime


class AnthropicModelList(BaseModel):
    data: list[AnthropicModel]
    has_more: bool = False
    first_id: str | None
    last_id: str | None


class InputItems(BaseModel):
    """What a response was asked with."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class AnthropicErrorBody(BaseModel):
    type: str
    message: str


class AnthropicError(BaseModel):
    """An error, in Anthropic's shape."""

    type: Literal["error"] = "error"
    error: AnthropicErrorBody
