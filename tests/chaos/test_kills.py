"""Each part is killed while runs go on, and the runs end as if nothing had been. All of them at
once, and for longer: ``make chaos``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.driver import chaos

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "targets",
    [["worker-0", "frozen"], ["sandbox", "frozen sandbox"], ["redis", "full", "cut off"],
     ["policy", "judge", "api"]],
    ids=" ".join,
)  # fmt: skip
async def test_runs_end_as_if_nothing_had_been(targets: list[str], tmp_path: Path) -> None:
    report = await chaos(runs=12, every=0.8, seed=1, folder=tmp_path, in_turn=2 * targets)
    assert report["wrong"] == []
    assert all(report["killed"].get(target, 0) > 0 for target in targets), report
    if "sandbox" not in targets:
        assert report["sandboxes_lost"] == 0
