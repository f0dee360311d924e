"""Import: rows in, trajectories out, and every row accounted for. Knows no format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from critic.errors import CriticInputError
from critic.importing.formats import FORMATS, format_of
from critic.importing.rows import Row, files_of, rows_of
from critic.importing.served import is_service, rows_of_service
from critic.trajectory import TrajectoryFile, line_of
from pilotfish.errors import first_wrong
from pilotfish.trajectory import Trajectory

_WRONG = (AttributeError, KeyError, TypeError, ValueError)
"""What a row of another form than its format's makes a converter raise."""


class Imported(BaseModel):
    """What became of the rows: ``rows == kept + rejected + duplicates + unrewarded``."""

    model_config = ConfigDict(extra="forbid")

    rows: int = 0
    kept: int = 0
    rejected: int = 0
    duplicates: int = 0
    unrewarded: int = 0
    """Left out because nothing says whether they solved their task."""
    sharing: int = 0
    """Of those kept, how many had their outcome from ``rewards``, as another of their task had:
    true only where all attempts at it ended so."""
    errors: dict[str, int] = Field(default_factory=dict)
    """Rejected rows by what was wrong, the numbers in it left out."""


class _Rejected(Exception):
    pass


Progress = Callable[[Path, Imported], None]
"""Called at each row with its file and the counts so far."""


def import_trajectories(
    sources: Iterable[str | Path],
    out: Path,
    *,
    rejects: Path,
    format: str | None = None,
    rewards: dict[str, float] | None = None,
    policy: str | None = None,
    keep_unrewarded: bool = False,
    progress: Progress = lambda path, imported: None,
) -> Imported:
    """Read all rows of ``sources`` (files, folders, URLs of services) and write ``out``, in memory
    that grows only by the digest of each row that is kept (to tell duplicates: the same id, or
    where the source gives none, the same words, in the same task), and by the tasks of ``rewards``.
    What cannot be read goes to ``rejects``, a JSON line each: ``{"where", "error"}``. ``out`` is in
    place only when all of it is written.

    Raises: ``CriticInputError`` for a source that is not there, an unknown format, or rows of which
    none is kept (``out`` stays as it was); ``PilotfishError`` for a service that cannot be asked.
    """
    sources = list(sources)
    if format is not None and format not in FORMATS:
        raise CriticInputError(f"format {format!r} is none of {', '.join(FORMATS)}")
    services = [str(source) for source in sources if is_service(source)]
    files = [file for s in sources if not is_service(s) for file in files_of(Path(s))]
    _check_places(files, out, rejects)
    counts, seen, told = Imported(), set[bytes](), set[str]()
    rejects.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        kept = stack.enter_context(TrajectoryFile(out))
        refused = stack.enter_context(rejects.open("w", encoding="utf-8"))
        for row in _rows(files, services):
            counts.rows += 1
            progress(row.path, counts)
            try:
                trajectory = _converted(row, format)
                by_task = trajectory.reward is None
                _complete(trajectory, rewards or {}, policy)
                line = _line(trajectory)
            except _Rejected as error:
                counts.rejected += 1
                _count_error(counts.errors, str(error))
                refused.write(json.dumps({"where": row.where, "error": str(error)}) + "\n")
                continue
            key = f"{trajectory.task_id}\0{trajectory.id}".encode(errors="surrogatepass")
            digest = hashlib.blake2b(key, digest_size=16).digest()
            if trajectory.reward is None and not keep_unrewarded:
                counts.unrewarded += 1
            elif digest in seen:
                counts.duplicates += 1
            else:
                seen.add(digest)
                kept.write(line)
                counts.kept += 1
                if by_task and trajectory.reward is not None:
                    counts.sharing += trajectory.task_id in told
                    told.add(trajectory.task_id)
        if not counts.kept:
            raise CriticInputError(_nothing(counts, rejects))
    return counts


def _nothing(counts: Imported, rejects: Path) -> str:
    why = f"{counts.unrewarded} have no outcome (--rewards, --keep-unrewarded)"
    if counts.rejected:
        most = max(counts.errors, key=lambda error: counts.errors[error])
        why = f"{counts.rejected} were rejected ({most}; see {rejects}), {why}"
    return f"nothing was imported: of {counts.rows} rows, {why}"


def _check_places(files: list[Path], out: Path, rejects: Path) -> None:
    read = {file.resolve() for file in files}
    for told, place in (("out", out), ("rejects", rejects)):
        if place.resolve() in read:
            raise CriticInputError(f"{place} is to be read: --{told} is another file")
    if out.resolve() == rejects.resolve():
        raise CriticInputError(f"--out and --rejects are both {out}")


def _rows(files: list[Path], services: list[str]) -> Iterator[Row]:
    for file in files:
        yield from rows_of(file)
    for url in services:
        yield from rows_of_service(url)


def _converted(row: Row, name: str | None) -> Trajectory:
    if row.fields is None:
        raise _Rejected(row.error)
    known = FORMATS[name] if name else format_of(row.fields)
    if known is None:
        raise _Rejected(f"no known format has the fields {', '.join(sorted(row.fields)[:8])}")
    try:
        return known.convert(row.fields, row.path)
    except ValidationError as error:
        raise _Rejected(first_wrong(error.errors())[1]) from error
    except KeyError as error:
        raise _Rejected(f"it has no {error}") from error
    except _WRONG as error:
        raise _Rejected(str(error) or type(error).__name__) from error


def _line(trajectory: Trajectory) -> str:
    try:
        return line_of(trajectory)
    except ValueError as error:
        raise _Rejected(f"it cannot be written: {error}") from error


def _complete(trajectory: Trajectory, rewards: dict[str, float], policy: str | None) -> None:
    if trajectory.reward is None:
        trajectory.reward = rewards.get(trajectory.task_id)
    if policy is not None:
        trajectory.policy = policy


def _count_error(errors: dict[str, int], error: str) -> None:
    """At most a hundred kinds: what differs in every row must not fill the memory."""
    kind = "".join("#" if c.isdigit() else c for c in error)[:80]
    if kind not in errors and len(errors) >= 100:
        kind = "others"
    errors[kind] = errors.get(kind, 0) + 1
