"""The policies, critics and sandbox providers of one process, by name: the one place that chooses
implementations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, TypeVar

from search.contracts import Critic, Policy, SandboxProvider
from search.fakes import ConstantCritic, FakePolicy, FakeSandboxes, saying
from service.critics.ensemble import Ensemble
from service.critics.published import PublishedCritic
from service.critics.reasoning import ReasoningCritic
from service.critics.vllm import VllmCritic
from service.critics.yes_no import YesNoCritic
from service.errors import ApiError
from service.policies.openai_endpoint import OpenAIPolicy
from service.sandboxes.bubblewrap import BubblewrapProvider
from service.sandboxes.container import ContainerProvider
from service.sandboxes.deployment import DeploymentProvider
from service.sandboxes.kubernetes import KubernetesProvider
from service.sandboxes.swerex import SwerexProvider
from service.settings import EnsembleCriticSettings, Settings, members_first

T = TypeVar("T")


def _torch_critic(name: str, settings: Any) -> Critic:
    # torch takes seconds to import; with its critics on vLLM, the service needs none
    from service.critics.torch_critic import TorchCritic

    return TorchCritic(name, settings)


POLICIES: Mapping[str, Callable[[str, Any], Policy]] = {
    "openai": OpenAIPolicy,
    "fake": lambda name, settings: FakePolicy(saying(*settings.says), name=name),
}
CRITICS: Mapping[str, Callable[[str, Any], Critic]] = {
    "vllm": VllmCritic,
    "classify": PublishedCritic,
    "yes_no": YesNoCritic,
    "reasoning": ReasoningCritic,
    "torch": _torch_critic,
    "constant": lambda name, settings: ConstantCritic(settings.q),
}
SANDBOXES: Mapping[str, Callable[[Any], SandboxProvider]] = {
    "bubblewrap": BubblewrapProvider,
    "swerex": SwerexProvider,
    "container": ContainerProvider,
    "deployment": DeploymentProvider,
    "kubernetes": KubernetesProvider,
    "fake": lambda settings: FakeSandboxes(),
}


class Parts:
    """An async context manager: leaving it closes all parts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self.policies: dict[str, Policy] = {}
        self.critics: dict[str, Critic] = {}
        self.sandboxes: dict[str, SandboxProvider] = {}

    async def __aenter__(self) -> Parts:
        for name, policy in self._settings.policies.items():
            self.policies[name] = self._closing(POLICIES[policy.type](name, policy))
        self.critics = await self._critics()
        for name, sandbox in self._settings.sandboxes.items():
            provider = SANDBOXES[sandbox.type](sandbox)
            if isinstance(provider, AbstractAsyncContextManager):
                await self._stack.enter_async_context(provider)
            self.sandboxes[name] = provider
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _critics(self) -> dict[str, Critic]:
        """Members before what is made of them; named in the order of the settings."""
        settings, made = self._settings.critics, dict[str, Critic]()
        for name in members_first(settings):
            own = settings[name]
            if isinstance(own, EnsembleCriticSettings):
                made[name] = Ensemble(name, own, [made[member] for member in own.members])
            else:
                critic = await asyncio.to_thread(CRITICS[own.type], name, own)
                made[name] = self._closing(critic)
        return {name: made[name] for name in settings}

    def _closing(self, part: T) -> T:
        if close := getattr(part, "close", None):
            self._stack.push_async_callback(close)
        return part

    def policy(self, name: str | None) -> Policy:
        """Raises: ``ApiError`` 404 for a name that is not there."""
        return _named("model", "model_not_found", self.policies, name)

    def critic(self, name: str | None) -> Critic | None:
        """``None`` for ``"none"``, or where no critic is set up and none is named."""
        if name == "none" or (name is None and not self.critics):
            return None
        return _named("critic", "critic_not_found", self.critics, name)

    def failed_q(self, critic: str) -> float | None:
        """The mean Q of failures that a critic's card promises, if it has one that does."""
        card = getattr(self.critics.get(critic), "card", None)
        return card.failed_q if card is not None else None

    def sandbox(self, name: str | None) -> SandboxProvider:
        return _named("sandbox", "sandbox_not_found", self.sandboxes, name)


def _named(kind: str, code: str, parts: dict[str, T], name: str | None) -> T:
    if name is None:
        if not parts:
            raise ApiError(503, f"no {kind} is set up", code=code, param=kind)
        return next(iter(parts.values()))
    if name not in parts:
        there = ", ".join(parts) or "none"
        message = f"there is no {kind} {name!r}; there are: {there}"
        raise ApiError(404, message, code=code, param=kind)
    return parts[name]
