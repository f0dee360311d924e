"""``python -m critic``, as documented."""

import json
import subprocess
import sys

import pytest

from critic.trajectory import write_trajectories
from tests.tiny import causal_lm, trajectory


def critic(*words):
    return subprocess.run(
        [sys.executable, "-m", "critic", *map(str, words)], capture_output=True, text=True
    )


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


def test_train_eval_and_score(folder):
    data = ["--data", folder / "rollouts.jsonl"]
    out = folder / "critic"
    trained = critic(
        "train", "--init", folder / "policy", *data, "--out", out, "--epochs", 1, "--held-out", 0,
        "--json",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["trajectories"] == 12
    measured = critic("eval", "--critic", out, *data, "--json")
    assert 0 <= json.loads(measured.stdout)["auc_last"] <= 1
    scored = critic("score", "--critic", out, *data)
    rows = [json.loads(line) for line in scored.stdout.splitlines()]
    assert len(rows) == 12
    assert all(len(row["q"]) == 2 for row in rows)


def test_what_is_wrong_is_one_line(folder):
    (folder / "broken.jsonl").write_text('{"task_id": 1}\n')
    for words, message in (
        (["eval", "--critic", folder / "policy", "--data", folder / "rollouts.jsonl"],
         "a critic is a sequence classification checkpoint"),
        (["train", "--init", folder / "policy", "--data", folder / "broken.jsonl",
          "--out", folder / "x"], "broken.jsonl:1: task_id"),
    ):  # fmt: skip
        done = critic(*words)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
