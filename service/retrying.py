"""Trying again what failed, by stamina, at no cost where nothing fails. Knows nothing of what."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import stamina

T = TypeVar("T")
Failures = tuple[type[Exception], ...] | Callable[[Exception], bool]


async def retried(
    call: Callable[[], Awaitable[T]], on: Failures, *, attempts: int, **patience: Any
) -> T:
    """What ``call`` gives, tried ``attempts`` times in all where it raises one of ``on``, or what
    ``on`` says yes to.

    stamina comes in behind the first failure only: what it makes for a call hangs together in
    cycles, which stay until they are collected. ``patience`` is its own.
    """
    try:
        return await call()  # nearly always
    except Exception as error:
        if not (on(error) if callable(on) else isinstance(error, on)):
            raise
        await asyncio.sleep(random.uniform(0.05, 0.2))
    async for attempt in stamina.retry_context(on=on, attempts=attempts - 1, **patience):
        with attempt:
            return await call()
    raise AssertionError("unreachable")
