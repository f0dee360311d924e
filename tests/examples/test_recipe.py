"""The recipe's own steps: what one stage writes the next one can read."""

import json
from types import SimpleNamespace

import pytest

from critic.trajectory import write_trajectories
from examples.bugfix import recipe
from examples.bugfix.policy_training import read_examples
from examples.bugfix.recipe import Stage, stages, write_successes
from tests.tiny import tokenizer, trajectory


def test_successes_are_demonstrations_and_equal_ones_are_one(tmp_path):
    rollouts, out = tmp_path / "rollouts.jsonl", tmp_path / "successes.jsonl"
    good, bad = ["```bash\nls\n```", "submit"], ["submit"]
    rows = [
        trajectory("t0", good, reward=1.0),
        trajectory("t0", good, reward=1.0),
        trajectory("t1", good[::-1], reward=1.0),
        trajectory("t1", bad, reward=0.0),
        trajectory("t1", bad, reward=None),
    ]
    write_trajectories(rollouts, rows)
    assert write_successes(rollouts, out) == 2
    examples = read_examples(out, tokenizer(), solved_only=True)
    assert len(examples) == 2
    assert all(any(example.own) for example in examples)


def test_stages_have_names_of_their_own_and_end_with_shipping():
    names = [stage.name for stage in stages()]
    assert len(set(names)) == len(names)
    assert names[-1] == "ship"


def test_a_stage_that_was_cut_short_counts_all_its_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "BUILD", tmp_path)
    clock = iter([0.0, 100.0, 200.0, 230.0])
    monkeypatch.setattr(recipe, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    goes = iter([KeyboardInterrupt(), None])

    def run():
        if error := next(goes):
            raise error
        return {"made": 1}

    stage = Stage("s", "what it does", run, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        stage.do()
    assert not stage.done
    stage.do()
    assert stage.done
    assert json.loads(stage.marker.read_text())["seconds"] == 130
    assert list(stage.marker.parent.iterdir()) == [stage.marker]
