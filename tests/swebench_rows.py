"""A small data set as SWE-bench's: tiny git repositories, each with a bug, a patch that mends it,
and hidden tests. The same commits every time."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ENV = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
}  # fmt: skip


@dataclass(frozen=True)
class Instance:
    """A repository at its base commit, and its row."""

    repository: Path
    row: dict[str, Any]


@dataclass(frozen=True)
class _Draft:
    name: str
    statement: str
    before: dict[str, str]
    mended: dict[str, str]
    """Files of the patch."""
    tests: dict[str, str | None]
    """Files of the test patch; ``None`` is one that it deletes."""
    fail_to_pass: list[str]
    pass_to_pass: list[str]


_DRAFTS = (
    _Draft(
        name="sums",
        statement="`total([1, 2])` gives 2, it should give 3.",
        before={
            "sums.py": "def total(items):\n    result = 0\n    for item in items[1:]:\n"
            "        result += item\n    return result\n",
            "tests/test_sums.py": "from sums import total\n\n\ndef test_none():\n"
            "    assert total([]) == 0\n",
        },
        mended={"sums.py": "def total(items):\n    return sum(items)\n"},
        tests={
            "tests/test_sums.py": "import pytest\nfrom sums import total\n\n\ndef test_none():\n"
            "    assert total([]) == 0\n\n\n"
            '@pytest.mark.parametrize("items", [[1, 2], [4]], ids=["one - [two]", "four"])\n'
            "def test_some(items):\n    assert total(items) == sum(items)\n"
        },
        fail_to_pass=["tests/test_sums.py::test_some[one - [two]]",
                      "tests/test_sums.py::test_some[four]"],
        pass_to_pass=["tests/test_sums.py::test_none"],
    ),
    _Draft(
        name="words",
        statement="`initials('ada lovelace')` gives 'a', it should give 'AL'.",
        before={
            "words/__init__.py": "def initials(name):\n    return name[0]\n\n\n"
            "def shout(text):\n    return text.upper()\n",
            "tests/test_words.py": "from words import shout\n\n\ndef test_shout():\n"
            '    assert shout("a") == "A"\n',
            "tests/test_old.py": "def test_old():\n    assert True\n",
        },
        mended={
            "words/__init__.py": "def initials(name):\n"
            '    return "".join(word[0].upper() for word in name.split())\n\n\n'
            "def shout(text):\n    return text.upper()\n"
        },
        tests={
            "tests/test_words.py": "from words import initials, shout\n\n\n"
            'def test_shout():\n    assert shout("a") == "A"\n\n\n'
            "class TestInitials:\n    def test_two(self):\n"
            '        assert initials("ada l") == "AL"\n',
            "tests/test_new_words.py": "from words import initials\n\n\ndef test_three():\n"
            '    assert initials("a b c") == "ABC"\n',
            "tests/test_old.py": None,
        },
        fail_to_pass=["tests/test_words.py::TestInitials::test_two",
                      "tests/test_new_words.py::test_three"],
        pass_to_pass=["tests/test_words.py::test_shout"],
    ),
    _Draft(
        name="bounds",
        statement="`clip(5, 0, 3)` gives 5, it should give 3.",
        before={
            "src/bounds.py": "def clip(value, low, high):\n    return max(value, low)\n",
            "pytest.ini": "[pytest]\npythonpath = src\n",
        },
        mended={
            "src/bounds.py": "def clip(value, low, high):\n"
            "    return min(max(value, low), high)\n"
        },
        tests={
            "checks/test_bounds.py": "import unittest\n\nfrom bounds import clip\n\n\n"
            "class Clip(unittest.TestCase):\n    def test_high(self):\n"
            "        self.assertEqual(clip(5, 0, 3), 3)\n\n    def test_low(self):\n"
            "        self.assertEqual(clip(-5, 0, 3), 0)\n"
        },
        fail_to_pass=["checks/test_bounds.py::Clip::test_high"],
        pass_to_pass=["checks/test_bounds.py::Clip::test_low"],
    ),
)  # fmt: skip


def make(folder: Path) -> list[Instance]:
    """The repositories in ``folder``, and their rows."""
    return [_make(folder / draft.name, draft) for draft in _DRAFTS]


def git(repository: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=repository, env=os.environ | _ENV, capture_output=True, check=True
    )
    return done.stdout.decode()


def _make(repository: Path, draft: _Draft) -> Instance:
    repository.mkdir(parents=True)
    git(repository, "init", "-q", "-b", "main")
    _write(repository, dict(draft.before))
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "base")
    base = git(repository, "rev-parse", "HEAD").strip()
    row = {
        "instance_id": f"tiny__{draft.name}-1",
        "repo": f"tiny/{draft.name}",
        "base_commit": base,
        "problem_statement": draft.statement,
        "hints_text": "",
        "patch": _patch(repository, dict(draft.mended)),
        "test_patch": _patch(repository, draft.tests),
        "version": "1.0",
        "environment_setup_commit": base,
        "FAIL_TO_PASS": json.dumps(draft.fail_to_pass),
        "PASS_TO_PASS": json.dumps(draft.pass_to_pass),
    }
    return Instance(repository, row)


def _patch(repository: Path, files: dict[str, str | None]) -> str:
    """The change as a patch; the repository stays as it was."""
    _write(repository, files)
    git(repository, "add", "-A")
    patch = git(repository, "diff", "--cached", "--binary")
    git(repository, "reset", "-q", "--hard")
    return patch


def _write(repository: Path, files: dict[str, str | None]) -> None:
    for name, text in files.items():
        path = repository / name
        if text is None:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
