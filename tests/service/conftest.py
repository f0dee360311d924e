"""The service over a real HTTP upstream and a real Redis, for other formats than chat's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from search.fakes import FakeCritic
from service.app import create_app
from service.routes.context import Context
from service.settings import ConstantCriticSettings, EndpointPolicy, Settings
from tests.upstream import Upstream, serving, upstream


@dataclass
class Endpoint:
    """The longer a candidate's text, the higher its Q."""

    up: Upstream
    app: FastAPI
    url: str
    http: httpx.AsyncClient

    @property
    def context(self) -> Context:
        return self.app.state.context

    async def until_asked(self) -> None:
        while not self.up.bodies:
            await asyncio.sleep(0.01)

    async def until_free(self) -> None:
        while self.context.under_way:
            await asyncio.sleep(0.01)

    async def keys(self) -> list[Any]:
        return [key async for key in self.context.state.redis.scan_iter("pilotfish:response:*")]


@pytest.fixture
async def endpoint(redis_url: str) -> AsyncIterator[Endpoint]:
    async with upstream() as up:
        settings = Settings(
            policies={"p": EndpointPolicy(url=up.url, model="up", timeout=20)},
            critics={"c": ConstantCriticSettings(type="constant")},
            redis_url=redis_url,
            worker=False,
            keys=["k1"],
            max_body_mb=0.5,
            keepalive=0.05,
        )
        app = create_app(settings)
        headers = {"Authorization": "Bearer k1"}
        async with (
            serving(app) as url,
            httpx.AsyncClient(base_url=url, timeout=20, headers=headers) as client,
        ):
            by_length = FakeCritic(lambda s, a: min(1.0, len(a.text) / 10), name="c")
            app.state.context.parts.critics["c"] = by_length
            yield Endpoint(up, app, url, client)
            await app.state.context.state.redis.flushdb()
