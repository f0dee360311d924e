"""``python -m critic``, as documented."""

import json
import signal
import subprocess
import sys
from typing import NamedTuple

import pytest

from critic.__main__ import main
from critic.progress import TrainingRun
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
    assert all(command in shown.stdout for command in ("import", "train", "eval", "score"))


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


def test_import(folder, critic, tmp_path):
    rows = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{broken\n")
    out = tmp_path / "out.jsonl"
    shown = critic("import", tmp_path / "in.jsonl", "--out", out)
    assert (shown.code, out.exists()) == (0, True)
    assert "13 rows: 12 kept" in shown.stdout
    assert "1 rejected" in shown.stdout
    assert "12 trajectories of 6 tasks" in shown.stdout
    assert "not JSON" in (tmp_path / "out.rejects.jsonl").read_text()
    told = json.loads(critic("import", tmp_path / "in.jsonl", "--out", out, "--json").stdout)
    assert told["rows"]["kept"] == told["data"]["all"]["trajectories"] == 12


def test_an_import_of_nothing_is_one_line(critic, tmp_path):
    shown = critic("import", tmp_path / "nowhere.parquet", "--out", tmp_path / "out.jsonl")
    assert shown.code == 1
    assert "does not exist" in shown.stderr


def test_a_training_that_is_stopped_goes_on_by_the_same_command(
    folder, critic, tmp_path, monkeypatch
):
    command = ["train", "--init", folder / "policy", "--data", folder / "rollouts.jsonl", "--out",
               tmp_path / "out", "--held-out", 0, "--batch-tokens", 100, "--epochs"]  # fmt: skip
    stepped = TrainingRun.stepped

    def interrupted(run, epoch, metrics):
        stepped(run, epoch, metrics)
        if run.step == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrainingRun, "stepped", interrupted)
    told = critic(*command, 2)
    assert told.code == 130
    assert "the same command goes on" in told.stderr
    assert (tmp_path / "out" / "state").is_dir()
    told = critic(*command, 1)
    assert told.code == 1
    assert "of other settings or data" in told.stderr
    assert critic(*command, 2).code == 0
    logged = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").open()]
    steps = [row["step"] for row in logged if "loss" in row]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 3


def test_an_output_that_cannot_be_written_is_one_line(folder, critic, tmp_path):
    (tmp_path / "file").write_text("x")
    shown = critic("import", folder / "rollouts.jsonl", "--out", tmp_path / "file" / "out.jsonl")
    assert shown.code == 1
    assert shown.stderr.splitlines()[-1].startswith("error:")
