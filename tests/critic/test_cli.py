"""``python -m critic``, as documented."""

import json
import subprocess
import sys
from typing import NamedTuple

import pytest

from critic.__main__ import main
from critic.trajectory import write_trajectories
from tests.tiny import causal_lm, trajectory


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str


@pytest.fixture
def critic(monkeypatch, capsys):
    """The command in this process: a new one would import torch anew each time."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["critic", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(ended.value.code, *capsys.readouterr())

    return run


def test_help_names_the_commands():
    shown = subprocess.run(
        [sys.executable, "-m", "critic", "--help"], capture_output=True, text=True, check=True
    )
    assert all(command in shown.stdout for command in ("train", "eval", "score"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("critic-cli")
    causal_lm(folder / "policy")
    rows = [
        trajectory(f"t{i}", [f"```bash\n{word}\n```", "submit"], reward=reward)
        for i in range(6)
        for word, reward in (("ls", 1.0), ("rm", 0.0))
    ]
    write_trajectories(folder / "rollouts.jsonl", rows)
    return folder


def test_train_eval_and_score(folder, critic):
    data = ["--data", folder / "rollouts.jsonl"]
    out = folder / "critic"
    trained = critic(
        "train", "--init", folder / "policy", *data, "--out", out, "--epochs", 1, "--held-out", 0,
        "--json",
    )  # fmt: skip
    assert trained.code in (0, None), trained.stderr
    assert json.loads(trained.stdout)["trajectories"] == 12
    measured = critic("eval", "--critic", out, *data, "--json")
    assert 0 <= json.loads(measured.stdout)["auc_last"] <= 1
    scored = critic("score", "--critic", out, *data)
    rows = [json.loads(line) for line in scored.stdout.splitlines()]
    assert len(rows) == 12
    assert all(len(row["q"]) == 2 for row in rows)


def test_what_is_wrong_is_one_line(folder, critic):
    (folder / "broken.jsonl").write_text('{"task_id": 1}\n')
    for words, message in (
        (["eval", "--critic", folder / "policy", "--data", folder / "rollouts.jsonl"],
         "a critic is a sequence classification checkpoint"),
        (["train", "--init", folder / "policy", "--data", folder / "broken.jsonl",
          "--out", folder / "x"], "broken.jsonl:1: task_id"),
    ):  # fmt: skip
        done = critic(*words)
        assert done.code == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
