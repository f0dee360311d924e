"""What a second round of training did, from files of trajectories."""

import random

from critic.trajectory import write_trajectories
from examples.bugfix.rounds import ATTEMPTS, CHECKPOINTS, Files, Found, K, compare, section
from pilotfish import Candidate, Message
from tests.tiny import trajectory

WORDS = ["ls", "cat sums.py", "submit"]


def attempts(k: int, solved: float, seed: int):
    """Trajectories of 12 tasks; under lookahead, with K candidates and their Q."""
    rng = random.Random(seed)
    for task in range(12):
        for slot in range(ATTEMPTS):
            turns = [f"```bash\n{rng.choice(WORDS)}\n```" for _ in range(3)]
            found = trajectory(f"t{task}", turns, reward=float(rng.random() < solved))
            found.slot = slot
            for step in found.steps:
                step.decision.requested = k
                step.decision.candidates[0].q = rng.random()
                others = range(1, k)
                step.decision.candidates += [
                    Candidate(index=i, message=Message.assistant(f"other {i}"), q=0.1)
                    for i in others
                ]
            yield found


def test_the_section_says_what_each_round_solves_and_how_failures_rose(tmp_path):
    files = Files(tmp_path)
    files.under_first.parent.mkdir()
    for path, k, solved in (
        (files.alone, 1, 0.2), (files.under_first, K, 0.3), (files.under_second, K, 0.6)
    ):  # fmt: skip
        write_trajectories(path, attempts(k, solved, seed=k))
    assert section(tmp_path) == ""
    critic = CHECKPOINTS / "critic"
    found = compare(files, critic, critic)
    files.found.write_text(found.model_dump_json())
    assert Found.model_validate_json(files.found.read_text()) == found
    assert found.gain.value > 0
    assert found.first.within_task == found.second.within_task
    assert found.estimated is not None
    assert found.estimated.steps == 12 * ATTEMPTS * 3
    told = section(tmp_path)
    assert told.count("| first |") == told.count("| second |") == 1
    assert "nan" not in told
