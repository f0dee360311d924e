"""Bug-fixing tasks in the form that Pilotfish runs; knows nothing of demonstrations or models.

python -m examples.bugfix.tasks --split heldout --out build/bugfix/heldout.jsonl
"""

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from examples.bugfix.problem import SPLITS, Problem, stream

COUNTS = {"train": 3000, "validation": 100, "heldout": 200}
WORKDIR = "/workspace"
HIDDEN_FILE = "hidden_tests.py"
EVALUATION = f"rm -rf __pycache__ && python3 -I -S -B {HIDDEN_FILE}"


def problems(split: str, count: int | None = None, seed: int = 0) -> Iterator[Problem]:
    """The problems of one split, always the same ones in the same order."""
    found = (problem for problem in stream(seed) if problem.split == split)
    return islice(found, COUNTS[split] if count is None else count)


def as_task(problem: Problem) -> dict[str, object]:
    """The task as its JSON form."""
    return {
        "id": f"bugfix-{problem.number:05d}",
        "statement": problem.statement,
        "image": "host",
        "files": problem.files,
        "setup": [],
        "workdir": WORKDIR,
        "submission": "cat " + " ".join(sorted(problem.files)),
        "evaluation": {
            "files": {HIDDEN_FILE: problem.hidden_tests},
            "command": EVALUATION,
            "timeout": 20,
        },
    }


def write_tasks(split: str, path: Path, count: int | None = None, seed: int = 0) -> int:
    """Write a split as JSON lines; returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps(as_task(problem)) for problem in problems(split, count, seed)]
    path.write_text("\n".join(rows) + "\n")
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the tasks of one split as JSON lines.")
    parser.add_argument("--split", choices=SPLITS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, help="how many (default: the whole split)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    count = write_tasks(options.split, options.out, options.count, options.seed)
    print(f"{count} tasks in {options.out}")


if __name__ == "__main__":
    main()
