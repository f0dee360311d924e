"""The critic's command line: ``pilotfish-critic``, or ``python -m critic``."""

from __future__ import annotations

import os
import sys

import typer
from pydantic import ValidationError
from rich.text import Text

from critic.commands.ablating import ablate
from critic.commands.importing import import_
from critic.commands.measuring import evaluate, reselect, score
from critic.commands.shared import errors
from critic.commands.training import train
from pilotfish.errors import PilotfishError, first_wrong

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
app.command("import")(import_)
app.command()(train)
app.command("eval")(evaluate)
app.command()(ablate)
app.command()(reselect)
app.command()(score)


def main() -> None:
    """Run, and put an error that the user can mend on one line."""
    code = _run()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # All is written. torch's threads of a group of processes can abort an interpreter that
        # winds down, also when the group was left before.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


def _run() -> int:
    try:
        app()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except ValidationError as error:
        return _fail(first_wrong(error.errors())[1])
    except (PilotfishError, ValueError, OSError, FloatingPointError) as error:
        return _fail(str(error))
    return 0


def _fail(message: str) -> int:
    errors.print(Text.assemble(("error:", "red"), f" {message}"))
    return 1


if __name__ == "__main__":
    main()
