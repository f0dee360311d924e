"""Training learns, writes a stock checkpoint, and the same Q comes out of it everywhere."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from critic.checkpoint import read_card
from critic.data import batches, prepare, split_by_task
from critic.errors import CriticInputError, HistoryTooLong
from critic.rendering import Renderer
from critic.scoring import Scorer
from critic.training import TrainingSettings, loss_of, targets_of, train
from critic.trajectory import read_trajectories, write_trajectories
from pilotfish import Message
from tests.tiny import causal_lm, tokenizer, trajectory

FAST = TrainingSettings(epochs=12, lr=3e-3, batch_tokens=2000, held_out=0.2)


def dataset(tasks=20):
    good, bad = ["```bash\nls\n```", "submit"], ["```bash\nrm\n```", "submit"]
    return [
        trajectory(f"t{i}", turns, reward=reward)
        for i in range(tasks)
        for turns, reward in ((good, 1.0), (bad, 0.0))
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("critic")
    policy = causal_lm(folder / "policy")
    steps = []
    metrics = train(
        policy, dataset(), folder / "critic", FAST, progress=lambda s, n, m: steps.append((s, n))
    )
    return folder / "critic", metrics, steps


def test_it_learns_what_separates_success_from_failure(trained):
    folder, metrics, steps = trained
    assert metrics["auc_last"] == 1.0
    assert metrics["within_task_last"] == 1.0
    assert steps[-1][0] == steps[-1][1]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == steps[-1][1]


def test_the_checkpoint_is_a_stock_sequence_classifier_with_a_card(trained):
    folder, _, _ = trained
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.num_labels == 1
    assert model.config.problem_type == "regression"
    assert read_card(folder).policies == ["p"]
    assert (folder / "model.safetensors").exists()


def test_the_same_q_in_training_in_process_and_in_stock_transformers(trained):
    folder, _, _ = trained
    example = dataset(1)[0]
    scorer = Scorer(folder)
    one_pass = scorer.score_turns(example.messages)
    by_action = [
        scorer.score(example.messages[:i], [m])[0]
        for i, m in enumerate(example.messages)
        if m.role == "assistant"
    ]
    assert one_pass == pytest.approx(by_action, abs=1e-5)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    ids = Renderer(AutoTokenizer.from_pretrained(folder)).render(example.messages)
    with torch.inference_mode():
        for end, q in zip(ids.turn_ends, one_pass, strict=True):
            raw = model(torch.tensor([ids.ids[: end + 1]])).logits.item()
            assert torch.sigmoid(torch.tensor(raw)).item() == pytest.approx(q, abs=1e-5)


def test_candidates_scored_together_are_scored_as_they_are_alone(trained):
    scorer = Scorer(trained[0])
    [first, second] = dataset(1)
    state, actions = first.prefix, [first.messages[2], second.messages[2]]
    together = scorer.score(state, actions)
    assert together == pytest.approx([scorer.score(state, [a])[0] for a in actions], abs=1e-5)
    assert together[0] > together[1]


def test_targets_of_a_batch_are_by_trajectory_and_loss_counts_turns_only():
    prepared = prepare(dataset(2), Renderer(tokenizer()))
    [batch] = batches(prepared.examples, 10_000, seed=None, pad_id=0)
    raw = torch.zeros(len(batch.at_P2))
    targets = targets_of(raw, batch, lam=1.0, gamma=1.0)
    assert targets.tolist() == [e.reward for e in batch.examples for _ in e.turn_ends]
    assert loss_of(raw, targets, "l2").item() == pytest.approx(0.25)
    assert loss_of(raw, targets, "bce").item() == pytest.approx(0.6931, abs=1e-3)


def test_batches_stay_within_their_tokens_and_hold_everything_once():
    prepared = prepare(dataset(20), Renderer(tokenizer()))
    made = batches(prepared.examples, 500, seed=1, pad_id=0)
    assert all(b.ids_BL.numel() <= 500 or len(b.examples) == 1 for b in made)
    assert sorted(id(e) for b in made for e in b.examples) == sorted(map(id, prepared.examples))


def test_a_task_is_on_one_side_of_the_split_only():
    prepared = prepare(dataset(50), Renderer(tokenizer()))
    train_side, held_out = split_by_task(prepared.examples, 0.3)
    assert not {e.task_id for e in train_side} & {e.task_id for e in held_out}
    assert 5 <= len({e.task_id for e in held_out}) <= 25


def test_records_survive_the_disk_and_a_broken_line_is_named(tmp_path):
    file = tmp_path / "t.jsonl"
    rows = dataset(2)
    assert write_trajectories(file, rows) == 4
    assert list(read_trajectories(file)) == rows
    file.write_text(file.read_text() + '{"task_id": "x"}\n')
    with pytest.raises(CriticInputError, match=r"t\.jsonl:5: policy: Field required"):
        list(read_trajectories(file))


def test_unusable_input_says_what_is_wrong(tmp_path):
    policy = causal_lm(tmp_path / "policy")
    with pytest.raises(CriticInputError, match="1 without a reward"):
        train(policy, [trajectory("t", ["submit"])], tmp_path / "out", FAST)
    with pytest.raises(CriticInputError, match="Qwen3ForCausalLM; a critic is a sequence"):
        Scorer(policy)
    with pytest.raises(CriticInputError, match=r"has no config\.json"):
        Scorer(tmp_path)


def test_a_head_of_more_than_one_label_is_refused(trained, tmp_path):
    for file in trained[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = {"0": "a", "1": "b"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CriticInputError, match="a head of 2 labels"):
        Scorer(tmp_path)


@pytest.mark.parametrize("change", ["no head", "two rows", "no weights at all"])
def test_a_checkpoint_whose_weights_hold_another_head_is_refused(trained, tmp_path, change):
    for file in trained[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    head = weights.pop("score.weight")
    if change == "two rows":
        weights["score.weight"] = torch.cat([head, head])
    save_file(weights, tmp_path / "model.safetensors")
    if change == "no weights at all":
        (tmp_path / "model.safetensors").write_bytes(b"nothing")
    wanted = {"no head": "has no head", "two rows": "2 labels", "no weights at all": "be read"}
    with pytest.raises(CriticInputError, match=wanted[change]):
        Scorer(tmp_path)


def test_a_history_longer_than_the_critics_positions_is_refused(trained, tmp_path):
    for file in trained[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32}))
    with pytest.raises(HistoryTooLong, match="the critic reads 32"):
        Scorer(tmp_path).score([Message.user("word " * 60)], [Message.assistant("a")])
