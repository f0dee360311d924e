"""Outcomes from a file beside the trajectories, for formats that do not say whether a task was
solved. Knows nothing of trajectories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from critic.errors import CriticInputError


def read_rewards(path: Path) -> dict[str, float]:
    """Reward by task, of one of: ``{"task": 1}`` (or true, or false), a SWE-bench report
    (``resolved_ids``; ``unresolved_ids`` and ``empty_patch_ids`` are failures), or its report of
    single instances (``{"task": {"resolved": true}}``).

    Raises: ``CriticInputError``.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CriticInputError(f"{path}: {error}") from error
    if not isinstance(told, dict):
        raise CriticInputError(f"{path} is not a JSON object")
    if "resolved_ids" in told:
        failed = [*_ids(path, told, "unresolved_ids"), *_ids(path, told, "empty_patch_ids")]
        return dict.fromkeys(failed, 0.0) | dict.fromkeys(_ids(path, told, "resolved_ids"), 1.0)
    return {str(task): _reward(path, task, value) for task, value in told.items()}


def _ids(path: Path, told: dict[str, Any], field: str) -> list[str]:
    found = told.get(field, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise CriticInputError(f"{path}: {field} is no list of tasks")
    return found


def _reward(path: Path, task: str, value: Any) -> float:
    if isinstance(value, dict):
        value = value.get("resolved")
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise CriticInputError(f"{path}: {task}: a reward from 0 to 1 is needed; got {value!r}")
    return float(value)
