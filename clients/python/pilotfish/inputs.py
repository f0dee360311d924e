"""What the command line reads: files, options that make a strategy, and what is wrong with them.
Knows no command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from pilotfish.errors import first_wrong
from pilotfish.strategy import Strategy

Record = TypeVar("Record", bound=BaseModel)


class InputError(Exception):
    """A file or an option that was given cannot be used."""


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
Critic = Annotated[str | None, typer.Option(help="The critic, by name; the default one without.")]
Model = Annotated[str | None, typer.Option(help="The policy, by name.")]
Sandbox = Annotated[str | None, typer.Option(help="The sandbox backend, by name.")]
StrategyFile = Annotated[Path | None, typer.Option("--strategy", "-s", help="The strategy, JSON.")]
K = Annotated[int | None, typer.Option("-k", help="Candidates a step.")]
N = Annotated[int | None, typer.Option("-n", help="Trajectories.")]
Tokens = Annotated[int | None, typer.Option(help="Budget: tokens. Needs --max-tokens too.")]
MaxTokens = Annotated[int | None, typer.Option(help="Tokens of a candidate, at most.")]
Seconds = Annotated[float | None, typer.Option(help="Budget: seconds.")]
UntilSubmitted = Annotated[
    bool, typer.Option("--until-submitted", help="Try again what does not submit.")
]


def plan_of(
    strategy: Path | None,
    k: int | None,
    n: int | None,
    tokens: int | None,
    max_tokens: int | None,
    seconds: float | None,
    until_submitted: bool,
    seed: int | None,
) -> Strategy:
    """The strategy of the file, with what the options say in its place. Raises: ``InputError``."""
    plan: dict[str, Any] = {} if strategy is None else json_of(strategy)
    changes = {
        ("lookahead", "k"): k,
        ("lookahead", "sampling", "max_tokens"): max_tokens,
        ("selection", "n"): n,
        ("selection", "until_submitted"): until_submitted or None,
        ("budget", "tokens"): tokens,
        ("budget", "seconds"): seconds,
        ("seed",): seed,
    }
    for (*parts, field), value in changes.items():
        if value is not None:
            place = plan
            for part in parts:
                place = place.setdefault(part, {})
                if not isinstance(place, dict):  # the file is wrong there, and that is what is told
                    return valid(Strategy, plan, "the strategy")
            place[field] = value
    return valid(Strategy, plan, "the strategy")


def text_of(file: Path) -> str:
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return content.decode()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {file}: it is not UTF-8 text") from error


def loads(text: str, file: Path) -> dict[str, Any]:
    try:
        # not json's: that takes what no request can carry, and breaks where it is nested deeply
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{file} is not a JSON object")
    return value


def json_of(file: Path) -> dict[str, Any]:
    return loads(text_of(file), file)


def valid(kind: type[Record], value: dict[str, Any], where: str) -> Record:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{where}: {first_wrong(error.errors())[1]}") from error
