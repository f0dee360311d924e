"""Rows straight from a Pilotfish service: the trajectories of its finished runs. Knows nothing of
what is in a row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from critic.importing.rows import Row
from pilotfish import Pilotfish
from pilotfish.api import FINAL_STATUSES
from pilotfish.errors import ApiStatusError


def is_service(source: str | Path) -> bool:
    """Whether the source is the URL of a service."""
    return str(source).startswith(("http://", "https://"))


def rows_of_service(url: str) -> Iterator[Row]:
    """A row a trajectory, newest run first; a row's place is its run. The key is that of the
    client, ``PILOTFISH_KEY``. A run that was forgotten meanwhile is a row with an ``error``.

    Raises: ``PilotfishError`` where the service cannot be asked.
    """
    with Pilotfish(url) as client:
        for run in client.list_runs():
            if run.status not in FINAL_STATUSES:
                continue
            try:
                trajectories = client.trajectories(run.id)
            except ApiStatusError as error:
                if error.status != 404:
                    raise
                yield Row(Path(run.id), 1, None, str(error))
                continue
            for number, trajectory in enumerate(trajectories, start=1):
                yield Row(Path(run.id), number, trajectory.model_dump(mode="json"))
