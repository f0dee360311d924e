"""Tasks from files: our own, and SWE-bench-like rows. JSON lines, JSON and Parquet, of a file or of
a folder of them. Knows nothing of who runs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from pilotfish.errors import first_wrong
from pilotfish.swebench import RowError, SweBenchOptions, is_row, task_of
from pilotfish.task import Task

_LINES = (".jsonl", ".ndjson")
SUFFIXES = (".parquet", ".json", *_LINES)
_ROWS_AT_ONCE = 16
_NOT_A_TASKS = ("subset", "split")
"""Columns that only say where a row belongs."""


class TaskFileError(ValueError):
    """A file of tasks cannot be used; the text says which, what row, and why."""


@dataclass(frozen=True)
class Row:
    """One row of a file, not yet looked at."""

    file: Path
    number: int
    """From 1; the line, in JSON lines."""
    fields: Mapping[str, Any]

    @property
    def where(self) -> str:
        return f"{self.file}:{self.number}"

    @property
    def id(self) -> str:
        """Raises: ``TaskFileError`` where it has none."""
        found = self.fields.get("instance_id", self.fields.get("id"))
        if not isinstance(found, str) or not found:
            raise TaskFileError(f"{self.where}: it has neither an instance_id nor an id, as text")
        return found


def read_tasks(
    path: str | Path,
    *,
    swebench: SweBenchOptions | None = None,
    subset: str | None = None,
    split: str | None = None,
    wanted: Callable[[str], bool] = lambda task_id: True,
) -> Iterator[Task]:
    """The tasks of a file, or of all files of a folder, one row after another; those that are not
    ``wanted``, by id, are not looked at further. ``subset`` and ``split`` leave what
    ``rows_of`` says.

    Raises: ``TaskFileError`` for a file that cannot be read, a row that is no task, or an id that
    comes twice.
    """
    seen: dict[str, str] = {}
    for row in rows_of(path, subset=subset, split=split):
        if not wanted(row.id):
            continue
        if row.id in seen:
            raise TaskFileError(f"{row.where}: {row.id!r} is there already, {seen[row.id]}")
        seen[row.id] = row.where
        yield _task(row, swebench)


def rows_of(
    path: str | Path, *, subset: str | None = None, split: str | None = None
) -> Iterator[Row]:
    """Raw rows. ``subset`` and ``split`` keep those that have it in their column of that name;
    rows without such a column, those whose file or folder is named so: ``test.jsonl``,
    ``test-00000-of-00001.parquet``, ``lite/test.parquet``. Raises: ``TaskFileError``."""
    root = Path(path)
    asked = {"subset": subset, "split": split}
    any_row = any_kept = False
    for file in files_of(root):
        names = _names(file, root)
        for row in _rows(file):
            any_row = True
            if all(_has(row, name, value, names) for name, value in asked.items()):
                any_kept = True
                yield row
    if any_row and not any_kept:
        told = ", ".join(f"{name} {value!r}" for name, value in asked.items() if value is not None)
        raise TaskFileError(f"{root} has no row of {told}: by its column, or its file's name")


def _has(row: Row, name: str, value: str | None, names: set[str]) -> bool:
    if value is None:
        return True
    return row.fields[name] == value if name in row.fields else value in names


def files_of(path: Path) -> list[Path]:
    """The file, or all in a folder that may hold tasks, sorted. Raises: ``TaskFileError``."""
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        if not found:
            raise TaskFileError(f"{path} holds no file that ends in {', '.join(SUFFIXES)}")
        return found
    if not path.exists():
        raise TaskFileError(f"{path} does not exist")
    if path.suffix not in SUFFIXES:
        raise TaskFileError(f"{path} ends in none of {', '.join(SUFFIXES)}")
    return [path]


def _names(file: Path, root: Path) -> set[str]:
    folders = file.relative_to(root).parts[:-1] if root.is_dir() else ()
    return {*folders, file.stem, file.stem.split("-")[0]}


def _task(row: Row, swebench: SweBenchOptions | None) -> Task:
    try:
        return task_of(row.fields, swebench) if is_row(row.fields) else _own(row)
    except RowError as error:
        raise TaskFileError(f"{row.where}: {error}") from error


def _own(row: Row) -> Task:
    fields = {name: value for name, value in row.fields.items() if name not in _NOT_A_TASKS}
    try:
        return Task.model_validate(fields)
    except ValidationError as error:
        raise TaskFileError(f"{row.where}: {first_wrong(error.errors())[1]}") from error


# ---- one file


def _rows(file: Path) -> Iterator[Row]:
    try:
        if file.suffix == ".parquet":
            yield from _parquet(file)
        elif file.suffix in _LINES:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield _row(file, number, _parsed(line, f"{file}:{number}"))
        else:
            found = _parsed(file.read_bytes(), str(file))
            documents = found if isinstance(found, list) else [found]
            for number, document in enumerate(documents, start=1):
                yield _row(file, number, document)
    except OSError as error:
        raise TaskFileError(f"cannot read {file}: {error.strerror or error}") from error


def _row(file: Path, number: int, value: Any) -> Row:
    if not isinstance(value, dict):
        raise TaskFileError(f"{file}:{number}: it is not a JSON object")
    return Row(file, number, value)


def _parsed(text: bytes, where: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise TaskFileError(f"{where}: it is not JSON: {error}") from error


def _parquet(file: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise TaskFileError(
            f"{file} is Parquet, which needs pyarrow: pip install pyarrow, or give JSON lines"
        ) from error
    number = 0
    try:
        with pq.ParquetFile(file) as rows:
            for batch in rows.iter_batches(batch_size=_ROWS_AT_ONCE):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(file, number, _own_fields(fields))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        where = f"{file}:{number + 1}"
        raise TaskFileError(f"{where}: it is not Parquet from here on: {error}") from error


def _own_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """A task of ours as one row of columns: what is empty was not given, and what is nested may
    stand as JSON text."""
    if is_row(fields):
        return fields
    given = {name: value for name, value in fields.items() if value is not None}
    for name in ("files", "evaluation"):
        if isinstance(given.get(name), str):
            given[name] = json.loads(given[name])
    return given
