"""Rows of files, one at a time: Parquet, JSON lines, and files of one JSON document. Knows nothing
of what is in a row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critic.errors import CriticInputError

_ROWS_AT_ONCE = 16
"""Rows of a Parquet file that are in memory together: one may have megabytes."""
_DOCUMENTS = (".json", ".traj")
_LINES = (".jsonl", ".ndjson")
SUFFIXES = (".parquet", *_LINES, *_DOCUMENTS)


@dataclass(frozen=True)
class Row:
    """One row, or why it could not be read."""

    path: Path
    number: int
    """From 1; a document's only one is 1."""
    fields: dict[str, Any] | None
    error: str = ""

    @property
    def where(self) -> str:
        return f"{self.path}:{self.number}"


def files_of(path: Path) -> list[Path]:
    """The file, or all files in a folder whose name says that they hold rows, sorted.

    Raises: ``CriticInputError`` if there is none.
    """
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in SUFFIXES)
        if not found:
            raise CriticInputError(f"{path} holds no file that ends in {', '.join(SUFFIXES)}")
        return found
    if not path.exists():
        raise CriticInputError(f"{path} does not exist")
    if path.suffix not in SUFFIXES:
        raise CriticInputError(f"{path} ends in none of {', '.join(SUFFIXES)}")
    return [path]


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of one file, in constant memory. What is broken comes as a row with an ``error``."""
    if path.suffix == ".parquet":
        yield from _parquet(path)
    elif path.suffix in _LINES:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parsed(path, number, line)
    else:
        yield _parsed(path, 1, path.read_bytes())


def _parsed(path: Path, number: int, text: bytes) -> Row:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Row(path, number, None, f"not JSON: {error}")
    if not isinstance(fields, dict):
        return Row(path, number, None, "not a JSON object")
    return Row(path, number, fields)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(path, number, fields)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # a file cut short or broken: what came before it is kept
        yield Row(path, number + 1, None, f"not Parquet from here on: {error}")
