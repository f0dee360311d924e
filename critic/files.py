"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write beside the file, then put it in its place: whoever is killed leaves the last one."""
    fresh = path.with_name(f"{path.name}.tmp")
    fresh.write_bytes(content.encode() if isinstance(content, str) else content)
    fresh.replace(path)
