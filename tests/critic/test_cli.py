"""``python -m critic``, as documented."""

import gzip
import json
import signal
import subprocess
import sys
from typing import NamedTuple

import pytest

from critic.__main__ import main
from critic.progress import TrainingRun
from critic.settings import TrainingSettings
from critic.training import train
from critic.trajectory import read_trajectories, write_trajectories
from pilotfish import Candidate, Message
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
    assert all(
        command in shown.stdout
        for command in ("import", "train", "eval", "ablate", "reselect", "score")
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


@pytest.fixture(scope="module")
def trained(folder):
    """A critic, hardly trained."""
    settings = TrainingSettings(epochs=1, held_out=0)
    train(folder / "policy", read_trajectories(folder / "rollouts.jsonl"), folder / "c", settings)
    return folder / "c"


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
    told = json.loads(measured.stdout)
    assert (told["trajectories"], told["tasks"], told["mixed_tasks"]) == (12, 6, 6)
    assert 0 <= told["by_share"][-1]["within_task"]["value"] <= 1
    scored = critic("score", "--critic", out, *data)
    rows = [json.loads(line) for line in scored.stdout.splitlines()]
    assert len(rows) == 12
    assert all(len(row["q"]) == 2 for row in rows)


def test_eval_reports_and_calibrates(folder, critic, trained, tmp_path):
    own = ["--data", folder / "rollouts.jsonl"]
    flattered = critic("eval", "--critic", trained, *own)
    assert (flattered.code, "trained on 6 of these tasks" in flattered.stderr) == (0, True)
    refused = critic("eval", "--critic", trained, *own, "--calibrate", "platt")
    assert (refused.code, "it was trained on t0" in refused.stderr) == (1, True)
    rows = read_trajectories(folder / "rollouts.jsonl")
    others = [row.model_copy(update={"task_id": f"other-{row.task_id}"}) for row in rows]
    write_trajectories(tmp_path / "others.jsonl", others)
    data = ["--data", tmp_path / "others.jsonl"]
    page = tmp_path / "deep" / "report.html"
    told = critic("eval", "--critic", trained, *data, "--report", page, "--calibrate", "platt")
    assert told.code == 0, told.stderr
    assert "choosing one of N" in told.stdout
    assert page.read_text().count("data:image/png;base64,") == 4
    card = json.loads((trained / "critic.json").read_text())
    assert card["calibration"]["kind"] == "platt"
    assert 0 <= card["failed_q"] <= 1
    again = critic("eval", "--critic", trained, *data, "--json")
    assert (again.code, "trained on" in again.stderr) == (0, False)
    refused = critic("eval", "--critic", trained, *data, "--calibrate", "wishful")
    assert (refused.code, "platt, isotonic" in refused.stderr) == (1, True)
    nobody = critic("eval", "--critic", trained, *data, "--held-out")
    assert (nobody.code, "of no task" in nobody.stderr) == (1, True)


def test_what_cannot_be_judged_is_counted(folder, critic, trained, tmp_path):
    long = trajectory("long", ["x" * 9000], reward=1.0)
    mixed = [long, trajectory("t", ["ls"]), trajectory("t", ["ls"], reward=0.0)]
    write_trajectories(tmp_path / "mixed.jsonl", mixed)
    told = critic("eval", "--critic", trained, "--data", tmp_path / "mixed.jsonl", "--json")
    assert told.code == 0, told.stderr
    assert json.loads(told.stdout)["trajectories"] == 1  # and NaN is no JSON
    assert "1 without a reward, 1 too long" in told.stderr
    scored = critic("score", "--critic", trained, "--data", tmp_path / "mixed.jsonl")
    rows = [json.loads(line) for line in scored.stdout.splitlines()]
    assert ["error" in row for row in rows] == [True, False, False]


def test_eval_of_what_training_held_out(folder, critic, tmp_path):
    data = ["--data", folder / "rollouts.jsonl"]
    command = ["train", "--init", folder / "policy", *data, "--out", tmp_path / "out"]
    command += ["--epochs", 1, "--held-out", 0.5, "--set", "warmup=0"]
    assert critic(*command).code == 0
    again = critic(*command)
    assert (again.code, "holds a critic" in again.stderr) == (1, True)
    onto = critic(*command, "--out", folder / "policy")
    assert (onto.code, "is --init" in onto.stderr) == (1, True)
    told = critic("eval", "--critic", tmp_path / "out", *data, "--held-out", "--json")
    assert 0 < json.loads(told.stdout)["tasks"] < 6


def test_reselect(folder, critic, trained, tmp_path):
    scored = tmp_path / "scored.jsonl"
    outcomes = (("yes", 0.2, 1.0), ("no", 0.8, 0.0))
    rows = [
        lookahead(f"t{i}", f"say {word}", q, reward)
        for i in range(4)
        for word, q, reward in outcomes
    ]
    write_trajectories(scored, rows)
    told = critic("reselect", "--critic", trained, "--data", scored, "--json", "-n", 1, "-n", 2)
    assert told.code == 0, told.stderr
    found = json.loads(told.stdout)
    one, two = found["selection"]
    assert one["change"]["value"] == 0
    assert two["before"]["value"] == 0
    assert two["change"]["value"] == two["after"]["value"] >= 0
    assert found["decisions"]["trajectories"] == 8
    half = lookahead("t0", "say yes", 0.5, 0.0)
    half.steps[0].decision.candidates[1].q = None
    long = lookahead("long", "x" * 9000, 0.5, 0.0)
    write_trajectories(scored, [half, long])
    shown = critic("reselect", "--critic", trained, "--data", scored)
    assert "trajectories left out: 1 too long" in shown.stderr
    assert "decisions left out: 1 with a candidate that was not scored, 1 too long" in shown.stderr
    assert "by this critic" in shown.stdout
    unscored = ["reselect", "--critic", trained, "--data", folder / "rollouts.jsonl"]
    refused = critic(*unscored)
    assert (refused.code, "by --than, or measure this one by eval" in refused.stderr) == (1, True)
    settings = TrainingSettings(epochs=12, lr=3e-3, held_out=0)
    right = list(read_trajectories(folder / "rollouts.jsonl"))
    wrong = [row.model_copy(update={"reward": 1 - (row.reward or 0)}) for row in right]
    for rows, name in ((right, "right"), (wrong, "wrong")):
        train(folder / "policy", rows, tmp_path / name, settings)
    for one, other, gain in (("right", "wrong", 1), ("wrong", "right", -1)):
        than = ["--critic", tmp_path / one, "--than", tmp_path / other, "-n", 2, *unscored[3:]]
        told = critic("reselect", *than, "--json")
        [row] = json.loads(told.stdout)["selection"]
        assert (row["tasks"], row["change"]["value"]) == (6, gain)
    shown = critic("reselect", *than)
    assert "by right" in shown.stdout
    assert shown.stderr.count("was trained on 6 of these tasks") == 2
    alone = critic("reselect", *than[:2], *than[4:], "--than-name", "x")
    assert (alone.code, "that --than gives" in alone.stderr) == (1, True)


def lookahead(task, text, q, reward):
    """A trajectory of one step that chose among two candidates."""
    found = trajectory(task, [text], reward=reward)
    decision = found.steps[0].decision
    decision.requested = 2
    decision.candidates[0].q = q
    other = Candidate(index=1, message=Message.assistant("other"), q=0.1)
    decision.candidates.append(other)
    return found


def test_ablate(folder, critic, tmp_path):
    out, judge_on = tmp_path / "ablation", tmp_path / "others.jsonl"
    others = [trajectory("o", [f"say {i}"], reward=float(i > 3)) for i in range(5)]
    write_trajectories(judge_on, others)
    command = ["ablate", "--init", folder / "policy", "--data", folder / "rollouts.jsonl",
               "--judge-on", judge_on, "--out", out, "--seeds", 1,
               "--set", "epochs=1", "--vary", "lam=0.7,1", "--vary", "data=0.9"]  # fmt: skip
    half = critic(*command, "--part", "2/2")
    assert half.code == 0, half.stderr
    assert "1 of 3 are there" in half.stderr
    assert "| lam = 1 | 1 |" in half.stdout
    assert [p.name for p in out.iterdir() if p.is_dir()] == ["lam=1-seed0"]
    told = critic(*command)
    assert told.code == 0, told.stderr
    assert "| lam = 1 | 1 |" in told.stdout
    assert critic(*command, "--part", "3/2").code == 1
    assert {p.name for p in out.iterdir() if p.is_dir()} == {
        "base-seed0", "lam=1-seed0", "data=0.9-seed0"
    }  # fmt: skip
    assert (out / "ablation.png").read_bytes().startswith(b"\x89PNG")
    weights = out / "lam=1-seed0" / "model.safetensors"
    made = weights.stat().st_mtime_ns
    (out / "lam=1-seed0" / "result.json").unlink()  # killed while it was judged
    assert critic(*command).code == 0
    assert weights.stat().st_mtime_ns == made
    none = critic(*command, "--out", tmp_path / "empty", "--part", "4/4", "--json")
    assert (none.code, none.stdout) == (0, "[]\n"), none.stderr
    other = critic(*command, "--set", "lr=0.01")
    assert (other.code, "other data or settings" in other.stderr) == (1, True)
    for vary, message in (("lam=2", "lam=2"), ("speed=1", "no setting"), ("data=0", "in (0, 1]"),
                          ("data=none", "in (0, 1]"), ("lam", "NAME=VALUE")):  # fmt: skip
        wrong = critic(*command[:-4], "--vary", vary)
        assert (wrong.code, message in wrong.stderr) == (1, True), wrong.stderr


def test_an_ablation_is_judged_on_other_tasks_and_on_whole_results(folder, critic, tmp_path):
    data = folder / "rollouts.jsonl"
    command = ["ablate", "--init", folder / "policy", "--data", data, "--out", tmp_path / "out",
               "--vary", "lam=0", "--seeds", 1, "--judge-on"]  # fmt: skip
    own = critic(*command, data)
    assert (own.code, "6 tasks of --judge-on are in --data too, or" in own.stderr) == (1, True)
    write_trajectories(tmp_path / "others.jsonl", [trajectory("o", ["ls"], reward=1.0)])
    (tmp_path / "out" / "base-seed0").mkdir(parents=True)
    (tmp_path / "out" / "base-seed0" / "result.json").write_text("")
    half = critic(*command, tmp_path / "others.jsonl")
    assert (half.code, "result.json is no result, remove it" in half.stderr) == (1, True)


def test_calibration_is_of_what_the_model_says_and_failed_q_of_what_the_critic_says(
    folder, critic, tmp_path
):
    rows = list(read_trajectories(folder / "rollouts.jsonl"))
    settings = TrainingSettings(epochs=8, lr=3e-3, held_out=0)
    train(folder / "policy", rows, tmp_path / "c", settings)
    noise = [trajectory("n", ["```bash\nls\n```", "submit"], reward=0.0)] * 3
    rows = [*(row.model_copy(update={"task_id": f"o{row.task_id}"}) for row in rows), *noise]
    write_trajectories(tmp_path / "data.jsonl", rows)
    cards = []
    for _ in range(2):
        command = ["--critic", tmp_path / "c", "--data", tmp_path / "data.jsonl"]
        assert critic("eval", *command, "--calibrate", "platt").code == 0
        cards.append(json.loads((tmp_path / "c" / "critic.json").read_text()))
    assert cards[0] == cards[1]
    said = [json.loads(line)["q"][-1] for line in critic("score", *command).stdout.splitlines()]
    failed = [q for q, row in zip(said, rows, strict=True) if not row.reward]
    assert cards[0]["failed_q"] == pytest.approx(sum(failed) / len(failed), abs=1e-6)
    assert cards[0]["calibration"]["slope"] != pytest.approx(1, abs=0.05)


def test_a_report_that_cannot_be_written_is_told_before_anything_is_judged(
    folder, critic, trained, tmp_path
):
    data = ["--data", folder / "rollouts.jsonl"]
    (tmp_path / "file").write_text("x")
    told = critic("eval", "--critic", trained, *data, "--report", tmp_path / "file" / "r.html")
    assert (told.code, "judging" in told.stderr) == (1, False)
    odd = tmp_path / "[/red] r.html"
    told = critic("eval", "--critic", trained, *data, "--report", odd)
    assert (told.code, f"wrote {odd}" in told.stderr.replace("\n", "")) == (0, True), told.stderr


def test_why_nothing_can_be_measured_is_told(critic, trained, tmp_path):
    write_trajectories(tmp_path / "long.jsonl", [trajectory("t", ["x" * 9000], reward=1.0)])
    (tmp_path / "none.jsonl").write_text("")
    for name, why in (("long", "1 too long"), ("none", "no trajectory")):
        told = critic("eval", "--critic", trained, "--data", tmp_path / f"{name}.jsonl")
        assert (told.code, f"nothing to measure: {why}" in told.stderr) == (1, True), told.stderr


def test_what_is_wrong_is_one_line(folder, critic):
    (folder / "broken.jsonl").write_text('{"task_id": 1}\n')
    (folder / "packed.jsonl").write_bytes(gzip.compress(b"{}"))
    for words, message in (
        (["eval", "--critic", folder / "policy", "--data", folder / "rollouts.jsonl"],
         "a critic is a sequence classification checkpoint"),
        (["train", "--init", folder / "policy", "--data", folder / "broken.jsonl",
          "--out", folder / "x"], "broken.jsonl:1: task_id"),
        (["train", "--init", folder / "policy", "--data", folder / "packed.jsonl",
          "--out", folder / "x"], "packed.jsonl:1: "),
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
    out = tmp_path / "out.jsonl"
    out.write_text("good\n")
    (tmp_path / "in.jsonl").write_text("{broken\n")
    shown = critic("import", tmp_path / "in.jsonl", "--out", out)
    assert (shown.code, "1 were rejected (not JSON" in shown.stderr) == (1, True), shown.stderr
    assert out.read_text() == "good\n"


def test_outcomes_by_task_that_several_attempts_share_are_told(critic, tmp_path):
    rows = [trajectory("t", [word]) for word in ("ls", "rm")] + [trajectory("o", ["ls"])]
    write_trajectories(tmp_path / "in.jsonl", rows)
    (tmp_path / "report.json").write_text('{"t": 1, "o": 0}')
    command = ["import", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl"]
    shown = critic(*command, "--rewards", tmp_path / "report.json")
    assert (shown.code, "1 trajectories have the outcome" in shown.stderr) == (0, True)


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
    assert "of other settings, data or number" in told.stderr
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
