"""Settings, by environment (``PILOTFISH_...``, nested by ``__``) and YAML (the file that
``PILOTFISH_CONFIG`` names). The environment wins. Knows no implementation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from pilotfish.api import GuideOptions
from service.sandboxes.admission import AdmissionSettings
from service.sandboxes.bubblewrap import BubblewrapSettings
from service.sandboxes.container import ContainerSettings
from service.sandboxes.deployment import DeploymentSettings
from service.sandboxes.kubernetes import KubernetesSettings
from service.sandboxes.swerex import SwerexSettings


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class EndpointPolicy(_Part):
    """A policy behind an OpenAI-compatible endpoint: vLLM, or any other."""

    type: Literal["openai"] = "openai"
    url: str
    """Up to and with ``/v1``."""
    replicas: list[str] = Field(default_factory=list)
    """URLs of further servers of the same model. Calls of a session go to one of them all."""
    model: str
    """Its name there."""
    key: SecretStr | None = None
    timeout: float = Field(default=3600.0, gt=0)
    """Seconds of one generation."""
    n: bool = True
    """Whether it takes ``n``; if not, K requests are made at once."""
    stream: bool = True
    """Whether it streams; if not, K requests are made at once, and a caller who wants a stream has
    the whole answer as one."""
    logprobs: bool = True
    """Whether to ask for log-probabilities, which break ties between several candidates."""
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
    replicas: list[str] = Field(default_factory=list)
    """URLs of further servers of the same model. Calls of a session go to one of them all."""
    model: str
    """Its name there."""
    checkpoint: str
    """The folder that it serves: its tokenizer and ``critic.json`` are read from here."""
    policy: str | None = None
    """Whose turns it judges, for a critic that reads the policy's name and knows several."""
    key: SecretStr | None = None
    timeout: float = Field(default=120.0, gt=0)
    max_connections: int = Field(default=16, ge=1)
    """What waits for one is sent together, so few are enough; each costs the client something."""


class ClassifyCriticSettings(_Part):
    """A published critic with labels of its own, served by vLLM's pooling runner. It has no
    ``critic.json``: what that says, these settings do."""

    type: Literal["classify"]
    url: str
    """Without a path."""
    replicas: list[str] = Field(default_factory=list)
    """URLs of further servers of the same model. Calls of a session go to one of them all."""
    model: str
    """Its name there."""
    tokenizer: str
    """A folder, or a name on the model hub: its chat template renders the history."""
    label: int = Field(default=0, ge=0)
    """Which of the labels is success, from 0."""
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    """``sigmoid`` where each label is a question of its own, ``softmax`` where one holds."""
    max_tokens: int | None = Field(default=None, ge=1)
    """The longest history, tokens: of a longer one the first messages and the newest turns are
    read. ``None`` sends all, and what the server cannot read is refused."""
    key: SecretStr | None = None
    timeout: float = Field(default=120.0, gt=0)
    max_connections: int = Field(default=16, ge=1)


class JudgeSettings(_Part):
    """Of every judge: a chat model on an OpenAI-compatible endpoint is asked about each turn."""

    url: str
    """Up to and with ``/v1``."""
    model: str
    """Its name there."""
    key: SecretStr | None = None
    timeout: float = Field(default=600.0, gt=0)
    """Seconds of one request, tries after a broken connection included."""
    max_connections: int = Field(default=64, ge=1)
    """Requests under way at once; further ones wait."""
    question: str | None = Field(default=None, min_length=1)
    """What stands last in the prompt, instead of what ``service/critics/asking.py`` has. It must
    ask for an answer of the same form."""
    max_chars: int = Field(default=100_000, ge=1000)
    """Characters of the history at most: of a longer one the first messages and the newest turns
    are shown. A token has 3 to 4; the model's context must hold them and the answer."""
    warm: bool = True
    """Whether to have the bare state read while the policy decodes, by a request for one token. Of
    use where the endpoint caches prefixes; without that it costs a prompt a step."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Fields of the request that we pass on (``structured_outputs``, ``chat_template_kwargs``...).
    They win over ours, and ``null`` leaves one of ours out."""
    every_turn: bool = True
    """Whether a finished trajectory is judged at each of its turns, a prompt each, or at the last
    one only, which is all that selection needs."""

    @field_validator("extra")
    @classmethod
    def _leaves_ours(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted({"model", "messages", "n", "stream"} & extra.keys()):
            raise ValueError(f"{', '.join(taken)}: the judge decides, not extra")
        return extra


class YesNoCriticSettings(JudgeSettings):
    """Q is P(yes) / (P(yes) + P(no)) where the answer begins."""

    type: Literal["yes_no"]
    max_tokens: int = Field(default=1, ge=1)
    """Of the answer, of which the first token is read. Some endpoints want more than one."""
    top_logprobs: int = Field(default=20, ge=2)
    """How many of the likeliest tokens to ask for: OpenAI and vLLM give 20, others fewer."""
    yes: list[str] = Field(default=["yes"], min_length=1)
    """Tokens that begin a yes, in whatever case. A vocabulary that cuts the word up needs its
    first piece: ``[yes, y]``."""
    no: list[str] = Field(default=["no"], min_length=1)
    min_mass: float = Field(default=0.01, ge=0, le=1)
    """P(yes) + P(no) at least. With less the model is about to say something else (``<think>``,
    say), and the ratio is noise."""


class ReasoningCriticSettings(JudgeSettings):
    """Q is the share of GOOD among the verdicts of several answers."""

    type: Literal["reasoning"]
    votes: int = Field(default=10, ge=1, le=128)
    """Answers for each turn that is scored: with K candidates, K times as many a step."""
    n: bool = True
    """Whether the endpoint takes ``n``; if not, one request is made for each vote."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Of sampling, without unit: logits are divided by it. At 0 all votes are one."""
    max_tokens: int = Field(default=1024, ge=1)
    """Tokens of one answer. One that is cut short has no verdict, and no vote."""
    every_turn: bool = False
    """As of any judge; here every turn costs ``votes`` answers."""


class EnsembleCriticSettings(_Part):
    """The mean of other critics' Q. Its spread is their population standard deviation."""

    type: Literal["ensemble"]
    members: list[str] = Field(min_length=1)
    """Names of other critics. One that is named twice counts twice."""
    pessimism: float = Field(default=0.0, ge=0)
    """Q is the mean less this many spreads: what the members disagree on counts less, which damps
    the errors that a choice of the highest finds."""
    min_members: int | None = Field(default=None, ge=1)
    """How many must answer; those that fail are left out. ``None`` is all: candidates of one step
    are scored one by one, and a Q without a member that is stricter than the others is no Q to
    compare. So by default a step with a failing member is degraded and says so; set this where an
    answer is worth more than that."""

    @model_validator(mode="after")
    def _has_them(self) -> Self:
        if self.min_members is not None and self.min_members > len(self.members):
            raise ValueError(f"min_members is {self.min_members} of {len(self.members)} members")
        return self


class TorchCriticSettings(_Part):
    """A critic's checkpoint, loaded into this process."""

    type: Literal["torch"]
    checkpoint: str
    policy: str | None = None
    """As of ``vllm``."""
    device: str = "cpu"
    """``cuda`` for a GPU that has room for it."""


class ConstantCriticSettings(_Part):
    """The same Q for everything: a baseline."""

    type: Literal["constant"]
    q: float = Field(default=0.5, ge=0, le=1)


class FakeSandboxSettings(_Part):
    """Runs nothing: for tests."""

    type: Literal["fake"]


class KeySettings(_Part):
    """A key that may call."""

    key: SecretStr
    guide: GuideOptions | None = None
    """How its calls are guided, where neither they nor their session say it."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, given: Any) -> Any:
        return {"key": given} if isinstance(given, str | SecretStr) else given


PolicySettings = Annotated[EndpointPolicy | FakePolicySettings, Field(discriminator="type")]
CriticSettings = Annotated[
    VllmCriticSettings
    | ClassifyCriticSettings
    | YesNoCriticSettings
    | ReasoningCriticSettings
    | EnsembleCriticSettings
    | TorchCriticSettings
    | ConstantCriticSettings,
    Field(discriminator="type"),
]
SandboxSettings = Annotated[
    BubblewrapSettings
    | SwerexSettings
    | ContainerSettings
    | DeploymentSettings
    | KubernetesSettings
    | FakeSandboxSettings,
    Field(discriminator="type"),
]


class Settings(BaseSettings):
    """All settings of one process. The first of each dictionary is the default one."""

    model_config = SettingsConfigDict(
        env_prefix="PILOTFISH_", env_nested_delimiter="__", extra="forbid"
    )

    policies: dict[str, PolicySettings] = Field(default_factory=dict)
    critics: dict[str, CriticSettings] = Field(default_factory=dict)
    sandboxes: dict[str, SandboxSettings] = Field(
        default={"bubblewrap": BubblewrapSettings(outlive_parent=True)}
    )
    admission: dict[str, AdmissionSettings] = Field(default_factory=dict)
    """Bounds of the sandboxes of a backend, by its name, over all workers that share the Redis."""
    reconcile: float = Field(default=60.0, gt=0)
    """Seconds between two looks for sandboxes whose run is over."""
    redis_url: str = "redis://localhost:6379/0"
    keys: list[KeySettings] = Field(default_factory=list)
    """Keys that may call, each bare or with how its calls are guided; none leaves every route
    open."""
    lookahead_k: int = Field(default=4, ge=1, le=64)
    """K of a guided chat completion that names none."""
    guide_by_default: bool = True
    """Whether the bare model name is guided; ``NAME:plain`` never is, ``NAME:lookahead`` always."""
    worker: bool = True
    """Whether this process also executes runs."""
    concurrent_runs: int = Field(default=32, ge=1)
    """Runs that one worker executes at once."""
    concurrent_requests: int = Field(default=256, ge=1)
    """Calls under way at once, guided or not; more are answered 429."""
    run_lifetime: float = Field(default=7 * 86400.0, gt=0)
    """Seconds that Redis keeps a run after its last entry."""
    session_lifetime: float = Field(default=7 * 86400.0, gt=0)
    """Seconds that Redis keeps a session after its last call."""
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

    @field_validator("critics")
    @classmethod
    def _has_members(cls, critics: dict[str, CriticSettings]) -> dict[str, CriticSettings]:
        members_first(critics)
        return critics

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


def members_first(critics: Mapping[str, CriticSettings]) -> list[str]:
    """Names of the critics, each behind those that it is made of. Raises: ``ValueError``."""
    members: dict[str, list[str]] = {}
    for name, critic in critics.items():
        members[name] = critic.members if isinstance(critic, EnsembleCriticSettings) else []
        if unknown := [member for member in members[name] if member not in critics]:
            there = ", ".join(other for other in critics if other != name) or "none"
            raise ValueError(f"{name}: there is no critic {unknown[0]!r}; there are: {there}")
    try:
        return list(TopologicalSorter(members).static_order())
    except CycleError as error:
        circle = " of ".join(reversed(error.args[1]))
        raise ValueError(f"an ensemble that is its own member: {circle}") from error


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
