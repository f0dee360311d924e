"""The formats that are read, by name. Another one is another line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critic.importing import atif, mini_swe_agent, nebius, swe_agent
from pilotfish.trajectory import Trajectory


@dataclass(frozen=True)
class Format:
    """How one kind of row is told and read."""

    recognises: Callable[[dict[str, Any]], bool]
    convert: Callable[[dict[str, Any], Path], Trajectory]
    """Raises: ``NotATrajectory``, ``pydantic.ValidationError``, and what a row of another form
    makes it raise (``KeyError``, ``TypeError``, ``AttributeError``, ``ValueError``)."""


def _is_ours(fields: dict[str, Any]) -> bool:
    return {"task_id", "policy", "prefix"} <= fields.keys()


def _ours(fields: dict[str, Any], path: Path) -> Trajectory:
    return Trajectory.model_validate(fields)


FORMATS: dict[str, Format] = {
    "pilotfish": Format(_is_ours, _ours),
    "nebius-swe-agent": Format(nebius.is_swe_agent_row, nebius.from_swe_agent_row),
    "nebius-openhands": Format(nebius.is_openhands_row, nebius.from_openhands_row),
    "mini-swe-agent": Format(mini_swe_agent.is_document, mini_swe_agent.from_document),
    "atif": Format(atif.is_document, atif.from_document),
    "swe-agent": Format(swe_agent.is_document, swe_agent.from_document),
}


def format_of(fields: dict[str, Any]) -> Format | None:
    """The first that knows such a row."""
    return next((known for known in FORMATS.values() if known.recognises(fields)), None)
