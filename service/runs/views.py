"""What a caller sees of a run. Knows nothing of HTTP."""

from __future__ import annotations

from typing import Any

from pilotfish import Trajectory, Usage
from pilotfish.api import FINAL_STATUSES, RunRequest, RunView, TrajectorySummary
from search.replay import Begun, replay


def run_view(summary: dict[str, Any], entries: list[dict[str, Any]] | None = None) -> RunView:
    """A run from its state and, for its trajectories, its journal."""
    request = RunRequest.model_validate(summary["request"])
    result = summary["result"] or {}
    final = summary["status"] in FINAL_STATUSES
    begun = [] if entries is None else list(replay(entries).values())
    trajectories = [_summary(i, b, final) for i, b in enumerate(begun)]
    usage = sum((t.usage for t in trajectories), Usage())
    return RunView(
        id=summary["id"],
        status=summary["status"],
        task_id=request.task.id,
        policy=summary["meta"]["policy"],
        critic=summary["meta"].get("critic"),
        created_at=summary["created_at"],
        ended_at=summary["ended_at"],
        strategy=request.strategy,
        tags=request.tags,
        trajectories=trajectories,
        selected=result.get("selected"),
        ranking=result.get("ranking", []),
        reason=result.get("reason", ""),
        error=result.get("error"),
        usage=Usage.model_validate(result["usage"]) if result.get("usage") else usage,
    )


def trajectories_of(entries: list[dict[str, Any]], *, final: bool) -> list[Trajectory]:
    """All trajectories of a journal. Those that a run left behind when it was cancelled say so."""
    trajectories = [begun.trajectory for begun in replay(entries).values()]
    for trajectory in trajectories:
        if final and trajectory.exit_status is None:
            trajectory.exit_status = "Cancelled"
    return trajectories


def _summary(number: int, begun: Begun, final: bool) -> TrajectorySummary:
    trajectory = begun.trajectory
    return TrajectorySummary(
        number=number,
        id=trajectory.id,
        slot=trajectory.slot,
        attempt=trajectory.attempt,
        exit_status=trajectory.exit_status or ("Cancelled" if final else None),
        exit_message=trajectory.exit_message,
        reward=trajectory.reward,
        last_q=trajectory.last_q,
        last_spread=trajectory.last_spread,
        regression_passed=trajectory.regression_passed,
        generated_passed=trajectory.generated_passed,
        steps=len(trajectory.steps),
        usage=trajectory.usage,
    )
