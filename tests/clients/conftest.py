"""The service over fakes, for clients that talk to it over real HTTP."""

from __future__ import annotations

import pytest

from pilotfish import Task
from search.fakes import FakeCritic, FakePolicy, FakeSandboxes, turn_by_turn
from service.app import create_app
from service.settings import FakePolicySettings, FakeSandboxSettings, Settings
from tests.upstream import serving

TASK = Task(id="t1", statement="fix it", image="host", evaluation={"command": "test"})
TURNS = turn_by_turn(
    ["```bash\nls\n```", "```bash\npwd\n```"], ["```bash\nsubmit\n```", "```bash\nsubmit\n```"]
)


@pytest.fixture
async def service(redis_url):
    """URL and application."""
    settings = Settings(
        policies={"p": FakePolicySettings(type="fake", says=["x"])},
        sandboxes={"fake": FakeSandboxSettings(type="fake")},
        redis_url=redis_url,
        keys=["k1"],
        keepalive=0.1,
    )
    app = create_app(settings)
    async with serving(app) as url:
        parts = app.state.context.parts
        parts.policies["p"] = FakePolicy(TURNS, name="p")
        parts.critics["c"] = FakeCritic(lambda s, a: 0.9 if "pwd" in a.text else 0.4, name="c")
        parts.sandboxes["fake"] = FakeSandboxes(lambda command: f"ran {command}\n")
        yield url, app
