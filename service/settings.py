"""Settings, by environment (``PILOTFISH_...``, nested by ``__``) and YAML (the file that
``PILOTFISH_CONFIG`` names). The environment wins. Knows no implementation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from service.sandboxes.bubblewrap import BubblewrapSettings
from service.sandboxes.swerex import SwerexSettings


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class EndpointPolicy(_Part):
    """A policy behind an OpenAI-compatible endpoint: vLLM, or any other."""

    type: Literal["openai"] = "openai"
    url: str
    """Up to and with ``/v1``."""
    model: str
    """Its name there."""
    key: SecretStr | None = None
    timeout: float = Field(default=3600.0, gt=0)
    """Seconds of one generation."""
    n: bool = True
    """Whether it takes ``n``; if not, K requests are made at once."""
    logprobs: bool = True
    """Whether to ask for log-probabilities, which break ties."""
    continuous_usage: bool = False
    """Whether it takes vLLM's ``continuous_usage_stats``. Without it, the prompt of a step that a
    threshold or a deadline cut short is not counted: its usage would have come at the end."""
    max_connections: int = Field(default=512, ge=1)


class FakePolicySettings(_Part):
    """Says the same for every state: for trying a scaffold without a model."""

    type: Literal["fake"]
    says: list[str] = Field(min_length=1)


class VllmCriticSettings(_Part):
    """A critic's checkpoint, served by vLLM's pooling runner."""

    type: Literal["vllm"] = "vllm"
    url: str
    """Without a path."""
    model: str
    """Its name there."""
    checkpoint: str
    """The folder that it serves: its tokenizer and ``critic.json`` are read from here."""
    key: SecretStr | None = None
    timeout: float = Field(default=120.0, gt=0)
    max_connections: int = Field(default=16, ge=1)
    """What waits for one is sent together, so few are enough; each costs the client something."""


class TorchCriticSettings(_Part):
    """A critic's checkpoint, loaded into this process."""

    type: Literal["torch"]
    checkpoint: str


class ConstantCriticSettings(_Part):
    """The same Q for everything: a baseline."""

    type: Literal["constant"]
    q: float = Field(default=0.5, ge=0, le=1)


class FakeSandboxSettings(_Part):
    """Runs nothing: for tests."""

    type: Literal["fake"]


PolicySettings = Annotated[EndpointPolicy | FakePolicySettings, Field(discriminator="type")]
CriticSettings = Annotated[
    VllmCriticSettings | TorchCriticSettings | ConstantCriticSettings, Field(discriminator="type")
]
SandboxSettings = Annotated[
    BubblewrapSettings | SwerexSettings | FakeSandboxSettings, Field(discriminator="type")
]


class Settings(BaseSettings):
    """All settings of one process. The first of each dictionary is the default one."""

    model_config = SettingsConfigDict(
        env_prefix="PILOTFISH_", env_nested_delimiter="__", extra="forbid"
    )

    policies: dict[str, PolicySettings] = Field(default_factory=dict)
    critics: dict[str, CriticSettings] = Field(default_factory=dict)
    sandboxes: dict[str, SandboxSettings] = Field(default={"bubblewrap": BubblewrapSettings()})
    redis_url: str = "redis://localhost:6379/0"
    keys: list[SecretStr] = Field(default_factory=list)
    """Bearer keys that may call; none leaves every route open."""
    lookahead_k: int = Field(default=4, ge=1, le=64)
    """K of a guided chat completion that names none."""
    guide_by_default: bool = True
    """Whether the bare model name is guided; ``NAME:plain`` never is, ``NAME:lookahead`` always."""
    worker: bool = True
    """Whether this process also executes runs."""
    concurrent_runs: int = Field(default=32, ge=1)
    """Runs that one worker executes at once."""
    concurrent_requests: int = Field(default=256, ge=1)
    """Guided requests under way at once; more are answered 429."""
    run_lifetime: float = Field(default=7 * 86400.0, gt=0)
    """Seconds that Redis keeps a run after its last entry."""
    lease: float = Field(default=30.0, gt=1)
    """Seconds after which a silent worker's runs go to another."""
    hacking_margin: float = Field(default=0.1, gt=0, le=1)
    """By how much the mean Q of failures may be higher under lookahead than without before the
    metric ``pilotfish_value_hacking`` is 1 and a warning is logged."""
    hacking_failures: int = Field(default=30, ge=1)
    """Failures of either kind before that is judged."""
    keepalive: float = Field(default=15.0, gt=0)
    """Seconds between comments in a stream that has nothing to say yet."""
    max_body_mb: float = Field(default=32.0, gt=0)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        _check_names(settings_cls)
        sources = [init_settings, env_settings]
        if path := os.environ.get("PILOTFISH_CONFIG"):
            sources.append(_yaml(settings_cls, path))
        return tuple(sources)


def _check_names(settings_cls: type[BaseSettings]) -> None:
    """A misspelt variable would otherwise be a setting that silently does nothing."""
    prefix = "PILOTFISH_"
    known = {*settings_cls.model_fields, "config", "url", "key"}  # the last two are the client's
    for name in os.environ:
        setting = name.removeprefix(prefix).split("__")[0].lower()
        # Kubernetes tells pods of a service named pilotfish by PILOTFISH_SERVICE_HOST and its like
        ours = name.startswith(prefix) and not setting.startswith(("service_", "port"))
        if ours and setting not in known:
            raise SettingsError(f"{name} in the environment: there is no such setting")


def _yaml(settings_cls: type[BaseSettings], path: str) -> YamlConfigSettingsSource:
    if not Path(path).is_file():  # the source would take none for an empty one
        raise SettingsError(f"PILOTFISH_CONFIG names {path}, which is no file")
    try:
        return YamlConfigSettingsSource(settings_cls, yaml_file=path)
    except (TypeError, ValueError) as error:  # a list, say, or other bytes than UTF-8
        raise SettingsError(f"{path} is no YAML file of settings: {error}") from error
