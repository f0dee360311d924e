"""The whole stack on real parts, started once: embedded Redis, the shipped policy and critic on
vLLM, bubblewrap, the service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.bugfix.collect import MAX_MODEL_LEN, POLICY_ARGUMENTS
from pilotfish import Pilotfish
from service.local.stack import Stack, StackSettings, local_stack

CHECKPOINTS = Path(__file__).parents[2] / "examples" / "bugfix" / "checkpoints"
POLICY, CRITIC = CHECKPOINTS / "policy", CHECKPOINTS / "critic"


class Running:
    """The stack in an event loop of its own thread, so that any test can use it."""

    def __init__(self, settings: StackSettings) -> None:
        self._settings = settings
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stack")
        self.stack: Stack | None = None
        self.error: BaseException | None = None

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self.error = error
        finally:
            self._up.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with local_stack(self._settings) as self.stack:
            self._up.set()
            await self._stop.wait()

    def start(self) -> Stack:
        self._thread.start()
        self._up.wait()
        if self.error is not None:
            raise self.error
        assert self.stack is not None
        return self.stack

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Running(
        StackSettings(
            policy=POLICY,
            policy_name="bugfix-policy",
            critics={"bugfix-critic": CRITIC},
            max_model_len=MAX_MODEL_LEN,
            eager=True,
            policy_arguments=POLICY_ARGUMENTS,
            logs=tmp_path_factory.mktemp("logs"),
            service={"keepalive": 0.5},
        )
    )
    yield running.start()
    running.stop()


@pytest.fixture(scope="session")
def stack_url(stack: Stack) -> str:
    return stack.url


@pytest.fixture
def pilotfish(stack_url: str) -> Iterator[Pilotfish]:
    with Pilotfish(stack_url, timeout=300) as client:
        yield client
