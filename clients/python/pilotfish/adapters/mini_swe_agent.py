"""Models for mini-swe-agent: its own, and our decision in each message's ``extra``.

    mini -m POLICY -c mini.yaml \\
        -c model.model_class=pilotfish.adapters.mini_swe_agent.PilotfishModel

``extra["pilotfish"]`` has every candidate with its Q, the choice and its reason, so it stands in
the trajectory file and is seen in ``mini-extra inspector``. Each model object is a session.
"""

from __future__ import annotations

import os
from typing import Any
from uuid import uuid4

from minisweagent.exceptions import FormatError
from minisweagent.models.litellm_model import LitellmModel, LitellmModelConfig
from minisweagent.models.litellm_textbased_model import (
    LitellmTextbasedModel,
    LitellmTextbasedModelConfig,
)
from pydantic import BaseModel, Field

from pilotfish.client import DEFAULT_URL


class _Guidance(BaseModel):
    """What our models have over mini's. The key is read from ``PILOTFISH_KEY`` and stands in no
    trajectory."""

    url: str = Field(default_factory=lambda: os.environ.get("PILOTFISH_URL") or DEFAULT_URL)
    session: str = Field(default_factory=lambda: uuid4().hex)
    guide: dict[str, Any] = Field(default_factory=dict)
    """``k``, ``pick``, ``threshold``, ``deadline``...: the body's ``pilotfish`` object."""
    cost_tracking: str = "ignore_errors"
    """A policy of one's own has no price that LiteLLM knows."""


class PilotfishModelConfig(_Guidance, LitellmModelConfig):  # type: ignore[misc]
    pass


class PilotfishTextbasedModelConfig(_Guidance, LitellmTextbasedModelConfig):  # type: ignore[misc]
    pass


class _Guided:
    """Over one of mini's models: asks Pilotfish, and keeps what it decided."""

    config: Any

    def _query(self, messages: list[dict[str, Any]], **kwargs: Any) -> Any:
        config = self.config
        body = {**config.model_kwargs.get("extra_body", {}), **kwargs.pop("extra_body", {})}
        return super()._query(  # type: ignore[misc]
            messages,
            api_base=f"{config.url.rstrip('/')}/sessions/{config.session}/v1",
            api_key=os.environ.get("PILOTFISH_KEY") or "none",
            extra_body=body | {"pilotfish": {"candidates": True, **config.guide}},
            **kwargs,
        )

    def query(self, messages: list[dict[str, Any]], **kwargs: Any) -> dict[str, Any]:
        try:
            message: dict[str, Any] = super().query(messages, **kwargs)  # type: ignore[misc]
        except FormatError as error:
            _lift(error.messages[0])
            raise
        return _lift(message)


class PilotfishModel(_Guided, LitellmModel):  # type: ignore[misc]
    """Acts by calls of mini's tool."""

    def __init__(self, *, model_name: str, **kwargs: Any) -> None:
        super().__init__(
            config_class=PilotfishModelConfig, model_name=_provided(model_name), **kwargs
        )


class PilotfishTextbasedModel(_Guided, LitellmTextbasedModel):  # type: ignore[misc]
    """Acts by fenced blocks."""

    def __init__(self, *, model_name: str, **kwargs: Any) -> None:
        # mini's own constructor would name its own configuration
        LitellmModel.__init__(
            self,
            config_class=PilotfishTextbasedModelConfig,
            model_name=_provided(model_name),
            **kwargs,
        )


def _provided(name: str) -> str:
    """With the provider by which LiteLLM speaks to any endpoint of OpenAI's format."""
    return name if name.startswith("openai/") else f"openai/{name}"


def _lift(message: dict[str, Any]) -> dict[str, Any]:
    extra = message.get("extra", {})
    response = extra.get("response")
    if isinstance(response, dict) and "pilotfish" in response:
        extra["pilotfish"] = response.pop("pilotfish")
    return message
