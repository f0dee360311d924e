"""Each part is killed alone while runs go on, and the runs end as if nothing had been. All at once,
and for longer: ``make chaos``."""

from __future__ import annotations

import pytest

from tests.chaos.driver import chaos

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "target",
    ["worker-0", "frozen", "sandbox", "frozen sandbox", "redis", "cut off", "full", "policy",
     "judge", "api"],
)  # fmt: skip
async def test_runs_end_as_if_nothing_had_been(target: str, tmp_path) -> None:
    report = await chaos(runs=4, every=1.5, seed=1, folder=tmp_path, targets=[target])
    assert report["wrong"] == []
    assert report["killed"][target] > 0
    if target != "sandbox":
        assert report["sandboxes_lost"] == 0
