"""SWE-bench-like rows as tasks. Knows nothing of files, nor of who runs them.

The agent gets the issue's text and the repository at its base commit. What it hands in is its
change as a patch, without the files that the tests will overwrite. It is judged by the row's hidden
tests, by ``swebench_judge.py`` in the sandbox that it left.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pilotfish.errors import first_wrong
from pilotfish.task import Evaluation, Task

PUBLIC_IMAGE = "swebench/sweb.eval.x86_64.{slug}:latest"
"""SWE-bench's own, on Docker Hub."""
JUDGE = Path(__file__).with_name("swebench_judge.py")
FOLDER = ".pilotfish"
"""Of the judge, in the working folder. It is written when the agent is done."""
START = "refs/pilotfish/start"
"""What the agent was given: images change more than the base commit has (``setup.cfg``, say)."""
TESTBED = "/opt/miniconda3/envs/testbed/bin"
"""Where the programs of SWE-bench's images are; elsewhere it is not there, and does nothing."""
CONDA = "/opt/miniconda3/etc/profile.d/conda.sh"
ACTIVATE = f"if [ -f {CONDA} ]; then . {CONDA} && conda activate testbed; fi"
"""What else that environment sets."""
OWN_RUNNERS = frozenset({"django/django", "sympy/sympy"})
"""Repositories whose tests pytest does not run."""


class RowError(ValueError):
    """The row cannot be made into a task; the text says why."""


class SweBenchOptions(BaseModel):
    """What rows do not say."""

    model_config = ConfigDict(extra="forbid")

    image: str | None = None
    """Template with ``{instance_id}``, ``{repo}``, ``{version}`` and ``{slug}`` (the id as public
    image names have it). ``None``: the row's ``image_name`` or ``docker_image``, else SWE-bench's
    public image."""
    workdir: str = "/testbed"
    path: list[str] = Field(default=[TESTBED])
    """Folders that stand first on PATH, for the agent and for the tests."""
    activate: str = ACTIVATE
    """Shell text before the tests, with what ``path`` leaves to be done."""
    test_command: str | None = None
    """How the tests are run where it is not pytest. ``{files}`` are the test files; what it prints
    is read as ``pytest -rA``, verbose unittest or sympy's runner print it."""
    timeout: float = Field(default=1800.0, gt=0, le=7200)
    """Seconds of the hidden tests."""


class _Row(BaseModel):
    """What is used of a row."""

    model_config = ConfigDict(extra="ignore")

    instance_id: str = Field(min_length=1)
    repo: str = Field(min_length=1)
    base_commit: str = Field(pattern=r"^[0-9a-fA-F]{7,64}$")
    problem_statement: str = Field(min_length=1)
    test_patch: str
    version: str | None = None
    FAIL_TO_PASS: list[str]
    PASS_TO_PASS: list[str] = Field(default_factory=list)
    image_name: str | None = None
    docker_image: str | None = None

    @field_validator("FAIL_TO_PASS", "PASS_TO_PASS", mode="before")
    @classmethod
    def _is_a_list(cls, value: Any) -> Any:
        return [] if value is None else json.loads(value) if isinstance(value, str) else value

    @field_validator("version", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) else value


def is_row(fields: Mapping[str, Any]) -> bool:
    return "instance_id" in fields and "base_commit" in fields


def task_of(fields: Mapping[str, Any], options: SweBenchOptions | None = None) -> Task:
    """The task that a row describes. Raises: ``RowError``."""
    options = options or SweBenchOptions()
    try:
        row = _Row.model_validate(dict(fields))
        return _task(row, options)
    except ValidationError as error:
        raise RowError(first_wrong(error.errors())[1]) from error


def _task(row: _Row, options: SweBenchOptions) -> Task:
    if row.repo.lower() in OWN_RUNNERS and options.test_command is None:
        raise RowError(
            f"{row.instance_id}: the tests of {row.repo} are not run by pytest; give a test command"
            " (--test-command), or leave its rows out (--filter)"
        )
    tests = [*row.FAIL_TO_PASS, *row.PASS_TO_PASS]
    if not tests:
        raise RowError(f"{row.instance_id} names no test: FAIL_TO_PASS and PASS_TO_PASS are empty")
    touched = paths_of(row.test_patch)
    asked = {
        "base_commit": row.base_commit,
        "test_patch": row.test_patch,
        "touched": touched,
        "files": _test_files(touched, tests),
        "fail_to_pass": row.FAIL_TO_PASS,
        "pass_to_pass": row.PASS_TO_PASS,
        "test_command": options.test_command,
    }
    judge, data = f"{FOLDER}/pilotfish_judge.py", f"{FOLDER}/tests.json"
    return Task(
        id=row.instance_id,
        statement=_statement(row, options),
        image=_image(row, options),
        workdir=options.workdir,
        path=options.path,
        setup=[_REMEMBER],
        submission=submission_command(row.base_commit, touched),
        evaluation=Evaluation(
            files={judge: JUDGE.read_text(encoding="utf-8"), data: json.dumps(asked)},
            command=f"{options.activate or ':'}\nexec python3 {judge} {data}",
            timeout=options.timeout,
        ),
    )


def _statement(row: _Row, options: SweBenchOptions) -> str:
    told = (
        f"The repository {row.repo} is in {options.workdir}. Change it so that the issue below is"
        " resolved. Hidden tests will judge; you need not change the repository's own tests.\n"
    )
    if options.path:
        told += (
            f"Its Python environment is in {':'.join(options.path)}, if that is there, which stands"
            " first on PATH already.\n"
        )
    return f"{told}\n{row.problem_statement}"


def _image(row: _Row, options: SweBenchOptions) -> str:
    template = options.image or row.image_name or row.docker_image or PUBLIC_IMAGE
    names = {
        "{instance_id}": row.instance_id,
        "{repo}": row.repo,
        "{version}": row.version or "",
        "{slug}": row.instance_id.lower().replace("__", "_1776_"),
    }
    return re.sub(r"\{\w+\}", lambda found: names.get(found[0], found[0]), template)


def _test_files(touched: list[str], tests: list[str]) -> list[str]:
    """The Python files that the patch touches, and whatever else the tests' ids lie in."""
    named = [test.split("::")[0] for test in tests if "::" in test]
    files = [path for path in [*touched, *named] if path.endswith(".py")]
    return list(dict.fromkeys(files))


# ---- what the agent hands in

_OWN_INDEX = (
    "g() { git -c safe.directory='*' -c core.quotePath=true -c user.name=pilotfish"
    ' -c user.email=pilotfish@localhost "$@"; }\n'
    "unset GIT_INDEX_FILE\n"
    "d=$(mktemp -d) && trap 'rm -rf \"$d\"' EXIT &&\n"
    'i=$(g rev-parse --git-path index) && export GIT_INDEX_FILE="$d/index" &&\n'
    '{ { cp "$i" "$d/index" && g ls-files >"$d/list"; } 2>"$d/said" ||\n'
    '  { rm -f "$d/index" && g read-tree HEAD; }; } &&\n'
)
"""The agent's index stays as it is, even where it is broken; a copy knows which files need not be
read again."""
_REMEMBER = (
    f"{_OWN_INDEX}g add -A && t=$(g write-tree) &&\n"
    f'c=$(g commit-tree -p HEAD -m start "$t") && g update-ref {START} "$c"'
)


def submission_command(base_commit: str, ignored: list[str]) -> str:
    """Prints the change since the start as a patch for ``git apply``: new files and binary ones
    too, whether committed, staged or neither. ``ignored`` files are left out, since the tests
    overwrite them, and so is what Python compiled: there are times in it, by which no two attempts
    would hand in the same. Neither the index nor the objects of the repository change."""
    excluded = [f":(exclude,top,literal){path}" for path in [*ignored, FOLDER]]
    compiled = ":(exclude,top,glob)**/__pycache__/**"
    paths = " ".join(shlex.quote(path) for path in [":(top)", *excluded, compiled])
    options = (
        "--cached --binary --full-index --no-renames --no-color --no-ext-diff --no-textconv "
        "--src-prefix=a/ --dst-prefix=b/"
    )
    return (
        f"{_OWN_INDEX}"
        'o=$(g rev-parse --git-path objects) && mkdir "$d/objects" &&\n'
        'export GIT_ALTERNATE_OBJECT_DIRECTORIES="$(cd "$o" && pwd)" &&\n'
        'export GIT_OBJECT_DIRECTORY="$d/objects" &&\n'
        f"s=$(g rev-parse -q --verify {START} || echo {shlex.quote(base_commit)}) &&\n"
        f'g add -A && g --no-pager diff {options} "$s" -- {paths}'
    )


# ---- reading a patch

_HUNK = re.compile(r"^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_NAMED = ("--- ", "+++ ", "rename from ", "rename to ", "copy from ", "copy to ")


def paths_of(patch: str) -> list[str]:
    """The files that a patch of git's touches, by their names before and after, in its order.

    >>> paths_of("diff --git a/t.py b/t.py\\n--- a/t.py\\n+++ b/t.py\\n@@ -1 +1 @@\\n-a\\n+b\\n")
    ['t.py']
    """
    found: dict[str, None] = {}
    old = new = 0
    for line in patch.split("\n"):
        if old > 0 or new > 0:  # a removed line may look like a header
            old -= line[:1] in ("-", " ", "")
            new -= line[:1] in ("+", " ", "")
        elif hunk := _HUNK.match(line):
            old, new = (1 if n is None else int(n) for n in hunk.groups())
        elif line.startswith("diff --git "):
            for path in _both(line[len("diff --git ") :]):
                found[path] = None
        else:
            for start in _NAMED:
                if line.startswith(start):
                    path = _name(line[len(start) :].split("\t")[0], prefixed=start[0] in "-+")
                    if path:
                        found[path] = None
    return list(found)


def _both(names: str) -> list[str]:
    """Of a header's two names, where they are one: a binary file, or a mode, has no other line."""
    half = len(names) // 2
    before, after = names[:half], names[half + 1 :]
    first, second = _name(before), _name(after)
    return [first] if first and first == second else []


def _name(text: str, *, prefixed: bool = True) -> str:
    text = text.rstrip("\r")
    if text == "/dev/null":
        return ""
    if text.startswith('"') and text.endswith('"') and len(text) > 1:
        text = _unquoted(text[1:-1])
    return text.partition("/")[2] if prefixed else text


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def _unquoted(text: str) -> str:
    """As git quotes names: octal bytes, and C's letters."""

    def plain(found: re.Match[bytes]) -> bytes:
        word = found[1]
        if word.isdigit():
            return bytes([int(word, 8) & 255])
        letter = word.decode("latin-1")
        return _ESCAPES.get(letter, letter).encode("latin-1")

    raw = re.sub(rb"\\([0-7]{3}|.)", plain, text.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "surrogateescape")
