"""The recipe's own steps: what one stage writes the next one can read."""

from critic.trajectory import write_trajectories
from examples.bugfix.policy_training import read_examples
from examples.bugfix.recipe import stages, write_successes
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
