"""The critic's benchmark runs, end to end, and says what it found. How fast anything is, is not
asserted."""

from benchmarks.critic import Scale, measure, table
from benchmarks.critic_scoring import ScoringPlan
from benchmarks.critic_training import by_action, packed
from benchmarks.synthetic import SHAPES, Writer, make_critic
from critic.checkpoint import read_card, read_renderer
from critic.data import prepare

SCORING = ScoringPlan(k=2, early=1, late=3, tokens=300, histories=1, repeats=1, fresh=1)


def test_it_runs_and_both_ways_have_the_same_loss(tmp_path):
    folder = make_critic(tmp_path / "critic", SHAPES["tiny"])
    scale = Scale(4096, 12, 2, rounds=1, steps=2, scoring=SCORING)
    found = measure(folder, scale, device="cpu", vllm=False, peak=1e12)
    assert found["one pass"]["loss_difference"] < 0.01
    assert 8 <= found["one pass"]["turns_of_a_trajectory"] <= 12
    assert 0 < found["loop"]["utilisation"] < 1
    assert found["torch"]["candidates_tokens"] > 0
    shown = table(found)
    assert "share of bare forward and backward" in shown
    assert "torch: K at turn 30 to K at turn 3" in shown
    assert "vllm" not in shown


def test_what_is_compared_is_the_same_work(tmp_path):
    folder = make_critic(tmp_path / "critic", SHAPES["tiny"])
    writer = Writer()
    renderer = read_renderer(folder, read_card(folder))
    examples = prepare([writer.trajectory(n) for n in range(3)], renderer).examples
    tokens = sum(example.length for example in examples)
    assert tokens - 3 < packed(examples).numel() <= tokens
    assert packed(examples).shape[0] == 3
    apart = by_action(examples[0])
    assert [one.length - 1 for one in apart] == examples[0].turn_ends[0]
    state = writer.history(3, first=40, turn=10, observation=20)
    assert abs(len(renderer.render_state(state)) - (40 + 3 * 30)) <= 6 * len(state)
