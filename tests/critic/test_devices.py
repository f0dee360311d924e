"""A sharded training takes the steps of a whole one: torch's FSDP, on CPUs (``sharded.py``)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from critic.checkpoint import CriticCard, read_renderer
from critic.data import passes_of, prepare
from critic.devices import sharding
from critic.errors import CriticInputError
from critic.settings import TrainingSettings
from critic.training import _average, train
from critic.trajectory import read_trajectories, write_trajectories
from tests.critic.test_training import dataset
from tests.tiny import causal_lm, trajectory

SETTINGS = TrainingSettings(
    epochs=6, lr=3e-3, batch_tokens=300, step_tokens=900, max_tokens=90, held_out=0.2,
    warm_lam=None,
)  # fmt: skip


@pytest.fixture
def data(tmp_path):
    causal_lm(tmp_path / "policy")
    long = [
        trajectory(f"l{i}", [word] * 12, reward=reward)
        for i in range(2)
        for word, reward in (("```bash\nls\n```", 1.0), ("```bash\nrm\n```", 0.0))
    ]
    write_trajectories(tmp_path / "data.jsonl", [*dataset(), *long])
    return tmp_path


def sharded(folder, out):
    settings = [f"{name}={value}" for name, value in SETTINGS.model_dump(exclude_none=True).items()]
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2",
        "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "bf16",
        "--main_process_port", "0",
        str(Path(__file__).with_name("sharded.py")), "train", "--init", str(folder / "policy"),
        "--data", str(folder / "data.jsonl"), "--out", str(folder / out), "--json",
        *(word for setting in settings for word in ("--set", setting)), "--set", "warm_lam=none",
    ]  # fmt: skip


def run(command, code=0, **environment):
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT | environment
    )
    assert done.returncode == code, done.stderr
    return done


ENVIRONMENT = os.environ | {"ACCELERATE_TORCH_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder):
    return [row["loss"] for row in rows(folder) if "loss" in row]


def test_some_of_the_data_is_read_in_several_passes(data):
    card = CriticCard(max_tokens=SETTINGS.max_tokens)
    renderer = read_renderer(data / "policy", card)
    examples = prepare(read_trajectories(data / "data.jsonl"), renderer).examples
    passes = [len(passes_of([example], SETTINGS.batch_tokens)) for example in examples]
    assert min(passes) == 1 < max(passes)


@pytest.mark.slow
def test_a_sharded_training_takes_the_same_steps_as_a_whole_one(data):
    told = run(sharded(data, "sharded"))
    assert told.stderr.count("DistributedType.FSDP units=3 ['DTensor']") == 2  # 2 layers, the rest
    whole = train(data / "policy", read_trajectories(data / "data.jsonl"), data / "whole", SETTINGS)
    ours, theirs = losses(data / "sharded"), losses(data / "whole")
    assert ours[:6] == pytest.approx(theirs[:6], rel=5e-3)  # all data once, and after that
    assert ours == pytest.approx(theirs, rel=0.2)  # bfloat16 drifts
    found = json.loads(told.stdout)
    assert found["processes"] == 2
    assert found["auc_last"] == whole["auc_last"] == 1.0
    ours, theirs, before = (
        load_file(data / out / "model.safetensors") for out in ("sharded", "whole", "policy")
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype == torch.bfloat16
        if name in before:  # the head is fresh
            apart = (ours[name].float() - theirs[name].float()).norm()
            moved = (theirs[name].float() - before[name]).norm()
            assert apart <= 0.5 * moved, name


@pytest.mark.slow
def test_a_sharded_training_that_was_stopped_ends_with_the_same_weights(data):
    run(sharded(data, "whole"))
    stopped = run(sharded(data, "cut"), code=1, STOP_AT="4")
    assert "stopped; the same command goes on from here" in stopped.stderr
    assert (data / "cut" / "state").exists()
    assert 4 == len(losses(data / "cut")) < len(losses(data / "whole"))
    run(sharded(data, "cut"))
    assert losses(data / "cut") == losses(data / "whole")
    whole, cut = ((data / out / "model.safetensors").read_bytes() for out in ("whole", "cut"))
    assert whole == cut


def test_layers_are_units_and_gradients_are_added_in_float32(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    found = sharding()
    assert found.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
    assert found.mixed_precision_policy.param_dtype == torch.bfloat16
    assert found.mixed_precision_policy.reduce_dtype == torch.float32
    assert found.mixed_precision_policy.output_dtype is None


def test_nothing_is_sharded_unless_it_was_launched_so(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert sharding() is None


def test_what_cannot_be_sharded_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(CriticInputError, match="--fsdp_version 2"):
        sharding()
    here = SimpleNamespace(distributed_type=DistributedType.FSDP)
    averaged = TrainingSettings(target_network="ema")
    with pytest.raises(CriticInputError, match="cannot be sharded"):
        _average(here, torch.nn.Linear(1, 1), averaged)
