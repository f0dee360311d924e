"""The critic's command line: ``pilotfish-critic``, or ``python -m critic``."""

from __future__ import annotations

from typing import NoReturn

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
    try:
        app()
    except ValidationError as error:
        _fail(first_wrong(error.errors())[1])
    except (PilotfishError, ValueError, OSError, FloatingPointError) as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    errors.print(Text.assemble(("error:", "red"), f" {message}"))
    raise SystemExit(1)


if __name__ == "__main__":
    main()
