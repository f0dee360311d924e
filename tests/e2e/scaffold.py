"""Runs what docs/integrations shows with the scaffolds themselves, in their own environment, on a
project with a bug. Commands that an agent runs can write nowhere but in that project's folder."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from examples.bugfix.problem import Problem
from examples.bugfix.tasks import problems
from pilotfish import Pilotfish, Trajectory

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "integrations"
ENVIRONMENT = ROOT / ".venv-scaffolds" / "bin"
SERVICE = "http://127.0.0.1:8700"
OF_THE_POLICY = (
    *("MaxTurnsExceeded", "UsageLimitExceeded", "GraphRecursionError"),  # it did not come to an end
    *("JSONDecodeError", "ModelBehaviorError", "UnexpectedModelBehavior"),  # its turn was cut
)
"""How scaffolds say what is the policy's fault, and neither theirs nor ours."""


def blocks(page: str, language: str) -> list[str]:
    """The code of one language on a page."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    return fence.findall((PAGES / f"{page}.md").read_text())


def bugs(count: int) -> Iterator[Problem]:
    return islice(problems("heldout"), count)


class Project:
    """A folder with a bug, its ``issue.txt``, and the service that its agent is to use."""

    def __init__(self, folder: Path, problem: Problem, url: str) -> None:
        self.folder, self.url = folder, url
        folder.mkdir()
        for name, text in problem.files.items():
            (folder / name).write_text(text)
        (folder / "issue.txt").write_text(problem.statement)

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        script = self.folder / ".script.py"
        script.write_text(code.replace(SERVICE, self.url))
        return self.run([str(ENVIRONMENT / "python"), script.name])

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        here = str(self.folder)
        inside = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
                  "--tmpfs", "/tmp", "--bind", here, here, "--chdir", here,
                  "--unshare-pid", "--die-with-parent"]  # fmt: skip
        environment = {
            "PATH": f"{ENVIRONMENT}:/usr/local/bin:/usr/bin:/bin",
            "HOME": here,
            "PYTHONDONTWRITEBYTECODE": "1",
            # nothing is fetched, asked for or sent
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "HF_HUB_OFFLINE": "1",
            "MSWEA_CONFIGURED": "true",
            "OPENAI_API_KEY": "none",
        }
        return subprocess.run(
            [*inside, *command], env=environment, capture_output=True, text=True, timeout=300
        )


def trajectories(url: str, known: set[str]) -> list[Trajectory]:
    """Of the sessions that began since ``known``, oldest first."""
    with Pilotfish(url) as client:
        names = [session.id for session in client.list_sessions() if session.id not in known]
        return [client.session_trajectory(name) for name in reversed(names)]


def cut(found: list[Trajectory]) -> bool:
    """Whether a turn was cut at its tokens: scaffolds drop such a one, or call it an error."""
    turns = [step.decision.winner for trajectory in found for step in trajectory.steps]
    return any(turn.finish_reason == "length" for turn in turns)


def sessions(url: str) -> set[str]:
    with Pilotfish(url) as client:
        return {session.id for session in client.list_sessions()}


def said(trajectory: Trajectory) -> list[Any]:
    """What the critic chose: texts, and arguments of calls, in their order."""
    turns = [step.decision.message for step in trajectory.steps]
    return spoken(
        [turn.text, *(call["function"]["arguments"] for call in turn.tool_calls or [])]
        for turn in turns
    )


def spoken(turns: Any) -> list[Any]:
    """The same, of a scaffold's turns: empty texts left out, arguments as what they are."""
    flat = [part for turn in turns for part in turn if part]
    return [_value(part) for part in flat]


def _value(part: Any) -> Any:
    if not isinstance(part, str) or not part.startswith("{"):
        return part.strip() if isinstance(part, str) else part
    try:
        return json.loads(part)
    except ValueError:
        return part
