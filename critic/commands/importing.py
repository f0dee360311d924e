"""``import``: other people's trajectories made ours, and a report of what is in them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TextColumn
from rich.table import Table

from critic.commands.shared import AsJson, errors
from critic.describing import Description, describe
from critic.importing.importer import Imported, import_trajectories
from critic.importing.rewards import read_rewards
from critic.trajectory import read_trajectories


def import_(
    sources: Annotated[
        list[str],
        typer.Argument(help="Files or folders (Parquet, JSON, .traj), or the URL of a service."),
    ],
    out: Annotated[Path, typer.Option(help="Trajectories, JSON lines.")],
    rejects: Annotated[
        Path | None, typer.Option(help="Rows that could not be read; OUT.rejects.jsonl by default.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="What the rows are; told by their fields by default.")
    ] = None,
    rewards: Annotated[
        Path | None,
        typer.Option(exists=True, help="Outcomes by task: {task: 0 or 1}, or a SWE-bench report."),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="The policy's name, for all rows.")] = None,
    keep_unrewarded: Annotated[
        bool, typer.Option(help="Keep those of which nothing says whether they solved their task.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make other people's trajectories ours: nebius' data sets, mini-swe-agent, SWE-agent, ATIF,
    the finished runs of a Pilotfish service."""
    columns = (TextColumn("{task.description}", markup=False), TextColumn("{task.completed} rows"))
    with Progress(*columns, console=errors) as bar:
        task = bar.add_task("importing", total=None)
        counts = import_trajectories(
            sources,
            out,
            rejects=rejects or out.with_suffix(".rejects.jsonl"),
            format=format,
            rewards=read_rewards(rewards) if rewards else None,
            policy=policy,
            keep_unrewarded=keep_unrewarded,
            progress=lambda path, c: bar.update(task, completed=c.rows, description=path.name),
        )
    if counts.sharing:
        errors.print(
            f"{counts.sharing} trajectories have the outcome that --rewards gives their task, as "
            "another attempt at it has: import each run with its own report"
        )
    description = describe(read_trajectories(out))
    if as_json:
        print(json.dumps({"rows": counts.model_dump(), "data": description.model_dump()}))
        return
    _show_import(counts)
    _show_description(description)


def _show_import(counts: Imported) -> None:
    print(f"{counts.rows} rows: {counts.kept} kept, {counts.duplicates} came twice, "
          f"{counts.unrewarded} without an outcome, {counts.rejected} rejected")  # fmt: skip
    for error, count in sorted(counts.errors.items(), key=lambda pair: -pair[1])[:5]:
        print(f"  rejected, {count}: {error}")


def _show_description(data: Description) -> None:
    print(f"{data.all.trajectories} trajectories of {data.tasks} tasks, of them {data.mixed_tasks} "
          "have a success and a failure")  # fmt: skip
    for title, groups in (("policy", data.policies), ("exit status", data.exit_statuses)):
        table = Table(title, "trajectories", "solved", box=None)
        for name, group in sorted(groups.items(), key=lambda pair: -pair[1].trajectories):
            solved = "-" if math.isnan(group.rate) else f"{group.rate:.1%}"
            table.add_row(escape(name), str(group.trajectories), solved)
        Console().print(table)
    for name, quantiles in (("turns", data.turns), ("characters", data.characters)):
        shown = ", ".join(f"{key} {value:,.0f}" for key, value in quantiles.items())
        print(f"{name}: {shown}")
