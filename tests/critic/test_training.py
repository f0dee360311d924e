"""Training learns, writes a stock checkpoint, and the same Q comes out of it everywhere."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from critic import progress, training
from critic.checkpoint import read_card, read_trained_tasks
from critic.data import by_length, collate, passes_of, plan_steps, prepare, split_by_task
from critic.errors import CriticInputError, HistoryTooLong
from critic.judged import judge
from critic.judges import Local
from critic.model import ValueModel, from_causal_lm
from critic.rendering import Renderer
from critic.scoring import Scorer
from critic.settings import TrainingSettings
from critic.training import accumulate, targets_of, train
from critic.trajectory import read_trajectories, write_trajectories
from pilotfish import Message
from tests.tiny import CHAT_TEMPLATE, causal_lm, tokenizer, trajectory

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


def copy_files(folder, into):
    for file in folder.iterdir():
        if file.is_file():
            shutil.copy(file, into)


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def same(a, b, **tolerance):
    return a.keys() == b.keys() and all(
        torch.allclose(a[k].float(), b[k].float(), **(tolerance or {"atol": 0, "rtol": 0}))
        for k in a
    )


SHORT = FAST.model_copy(update={"epochs": 2, "step_tokens": 700, "batch_tokens": 300})


@pytest.mark.parametrize("network", ["online", "ema"])
def test_stopped_and_taken_up_it_comes_to_the_same_weights(tmp_path, network):
    policy = causal_lm(tmp_path / "policy")
    settings = SHORT.model_copy(update={"target_network": network, "save_every": 2})
    seen = []
    train(policy, dataset(), tmp_path / "whole", settings, progress=lambda s, n, m: seen.append(s))
    for stop_at in (3, 2):
        steps = iter(range(1, 1000))
        found = train(
            policy,
            dataset(),
            tmp_path / "parts",
            settings,
            stopped=lambda steps=steps, stop_at=stop_at: next(steps) >= stop_at,
        )
        assert found["stopped"] == 1
    train(policy, dataset(), tmp_path / "parts", settings)
    assert max(seen) > 5
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts"))
    logged = [json.loads(line)["step"] for line in (tmp_path / "parts/metrics.jsonl").open()]
    assert sorted(set(logged)) == list(range(1, max(seen) + 1))
    assert not (tmp_path / "parts" / "state").exists()


def test_killed_while_it_saves_it_is_taken_up_from_the_last_whole_state(tmp_path, monkeypatch):
    policy = causal_lm(tmp_path / "policy")
    settings = SHORT.model_copy(update={"save_every": 2})
    train(policy, dataset(), tmp_path / "whole", settings)
    remove = progress.shutil.rmtree

    def killed(path, **options):
        if path.name.isdigit():
            (path / "random_states_0.pkl").unlink()
            raise KeyboardInterrupt
        remove(path, **options)

    monkeypatch.setattr(progress.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        train(policy, dataset(), tmp_path / "parts", settings)
    monkeypatch.setattr(progress.shutil, "rmtree", remove)
    state = tmp_path / "parts" / "state"
    assert {place.name for place in state.iterdir() if place.is_dir()} == {"2", "4"}
    (state / "6.tmp").mkdir()
    begun = []
    train(policy, dataset(), tmp_path / "parts", settings, progress=lambda s, n, m: begun.append(s))
    assert begun[0] == 5
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts"))


def test_a_critic_that_is_trained_on_reads_as_it_did(tmp_path):
    policy = causal_lm(tmp_path / "policy")
    first = SHORT.model_copy(update={"max_tokens": 90, "policy_in_prompt": True})
    train(policy, dataset(), tmp_path / "one", first)
    rows = [row.model_copy(update={"policy": "q"}) for row in dataset()]
    rows.append(trajectory("t", ["submit"], policy="left out"))
    train(tmp_path / "one", rows, tmp_path / "two", SHORT)
    card = read_card(tmp_path / "two")
    assert (card.max_tokens, card.policy_in_prompt, card.policies) == (90, True, ["p", "q"])
    held_out = {row.task_id for row in rows if card.held_out_task(row.task_id)}
    assert read_trained_tasks(tmp_path / "two") == {f"t{i}" for i in range(20)} - held_out


def test_what_a_critic_was_trained_on_is_not_held_out(tmp_path):
    policy = causal_lm(tmp_path / "policy")
    train(policy, dataset(), tmp_path / "one", SHORT.model_copy(update={"held_out": 0.0}))
    with pytest.raises(CriticInputError, match=r"was trained on \d of the tasks to hold out"):
        train(tmp_path / "one", dataset(), tmp_path / "two", SHORT)


def test_what_ends_alike_teaches_nothing(tmp_path):
    policy = causal_lm(tmp_path / "policy")
    successes = [row for row in dataset() if row.reward]
    with pytest.raises(CriticInputError, match=r"all \d+ trajectories to train on end alike"):
        train(policy, successes, tmp_path / "out", FAST)


def test_what_the_template_refuses_is_left_out_and_counted(trained, tmp_path):
    refusing = "{% if 'boom' in messages[-1]['content'] %}{{ raise_exception('no') }}{% endif %}"
    template = tokenizer(refusing + CHAT_TEMPLATE)
    rows = [*dataset(2), trajectory("t", ["boom"], reward=1.0)]
    prepared = prepare(rows, Renderer(template))
    assert (len(prepared.examples), prepared.refused, prepared.seen) == (4, 1, 5)
    copy_files(trained[0], tmp_path)
    template.save_pretrained(tmp_path)
    left_out = Counter()
    assert len(list(judge(Local(Scorer(tmp_path)), rows, left_out=left_out))) == 4
    assert left_out == {"refused by the critic's template": 1}


def test_weights_that_are_not_what_the_configuration_says_are_refused(trained, tmp_path):
    copy_files(trained[0], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    norm = weights.pop("model.norm.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for load in (Scorer, from_causal_lm):
        with pytest.raises(CriticInputError, match=r"its weights lack model\.norm\.weight"):
            load(tmp_path)
    save_file(
        weights | {"model.norm.weight": torch.cat([norm, norm])},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(CriticInputError, match=r"have model\.norm\.weight of another shape"):
        Scorer(tmp_path)


def test_what_was_begun_with_other_settings_is_not_taken_up(tmp_path):
    policy = causal_lm(tmp_path / "policy")
    train(policy, dataset(), tmp_path / "out", SHORT, stopped=lambda: True)
    with pytest.raises(CriticInputError, match="of other settings, data or number"):
        train(policy, dataset(), tmp_path / "out", SHORT.model_copy(update={"lr": 1e-3}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{"loss": "l2", "epochs": 40}, {"loss": "hl_gauss", "epochs": 40}, {"ordering": 0.5},
     {"target_network": "ema"}, {"gamma": 0.95, "lam": 1.0}, {"gradient_checkpointing": True}],
    ids=str,
)  # fmt: skip
def test_every_way_to_train_learns(tmp_path, change):
    policy = causal_lm(tmp_path / "policy")
    settings = FAST.model_copy(update={"epochs": 16, "batch_tokens": 500} | change)
    metrics = train(policy, dataset(), tmp_path / "out", settings)
    assert metrics["auc_last"] == 1.0
    [good, bad] = dataset(1)
    scorer = Scorer(tmp_path / "out")
    assert scorer.score_turns(good.messages)[-1] > scorer.score_turns(bad.messages)[-1] + 0.2


@pytest.mark.slow
def test_adapters_learn_and_leave_a_stock_checkpoint(tmp_path):
    policy = causal_lm(tmp_path / "policy")
    settings = FAST.model_copy(update={"lora_rank": 4, "epochs": 40, "lr": 1e-2})
    assert train(policy, dataset(), tmp_path / "out", settings)["auc_last"] == 1.0
    stock = AutoModelForSequenceClassification.from_pretrained(policy, num_labels=1)
    assert weights_of(tmp_path / "out").keys() == stock.state_dict().keys()
    [good, bad] = dataset(1)
    scorer = Scorer(tmp_path / "out")
    assert scorer.score_turns(good.messages)[-1] > scorer.score_turns(bad.messages)[-1] + 0.2


@pytest.mark.slow
def test_histories_longer_than_the_critic_reads_are_learnt_through_their_windows(tmp_path):
    policy = causal_lm(tmp_path / "policy")
    rows = [
        trajectory(f"t{i}", [*["```bash\nls\n```"] * 8, word, "submit"], reward=reward)
        for i in range(12)
        for word, reward in (("good", 1.0), ("bad", 0.0))
    ]
    settings = FAST.model_copy(update={"max_tokens": 90, "epochs": 20})
    metrics = train(policy, rows, tmp_path / "out", settings)
    assert metrics["too_long"] == 0
    assert metrics["auc_last"] == 1.0
    assert len(Scorer(tmp_path / "out").renderer.windows(rows[0].messages)) > 1


def gradients(model, batches, settings, target=None):
    """(loss, gradients) of one step, in float32."""
    accelerator = Accelerator(cpu=True)
    accelerator.autocast = nullcontext
    model.zero_grad()
    told = accumulate(accelerator, model, target or model, batches, 0, settings, settings.lam)
    return told["loss"], [weight.grad.clone() for weight in model.parameters()]


def assert_same_gradients(first, second):
    assert first[0] == pytest.approx(second[0], rel=1e-5)
    for one, other in zip(first[1], second[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def value_model(folder, labels=1, seed=0):
    network = from_causal_lm(causal_lm(folder, seed=seed), labels=labels, head_std=0.5)
    return ValueModel(network, "sigmoid" if labels == 1 else "expectation")


@pytest.fixture
def model(tmp_path):
    return value_model(tmp_path / "policy")


@pytest.mark.parametrize(
    "change",
    [{}, {"ordering": 0.5}, {"lam": 1.0}, {"loss": "hl_gauss", "ordering": 0.5},
     {"target_network": "ema"}],
    ids=str,
)  # fmt: skip
def test_a_trajectory_of_many_windows_is_read_in_passes_with_the_gradient_of_one(tmp_path, change):
    model = value_model(tmp_path / "policy", 21 if change.get("loss") else 1)
    average = value_model(tmp_path / "average", seed=1) if "target_network" in change else None
    rows = [
        trajectory("t", [*["```bash\nls\n```"] * turns, "submit"], reward=reward)
        for turns, reward in ((9, 1.0), (12, 0.0))
    ]
    batch = prepare(rows, Renderer(tokenizer(), max_tokens=90)).examples
    few, many = (SHORT.model_copy(update=change | {"batch_tokens": n}) for n in (9999, 90))
    assert len(passes_of(batch, 9999)) == 1 < len(passes_of(batch, 90))
    one = gradients(model, [batch], few, average)
    assert_same_gradients(one, gradients(model, [batch], many, average))
    if average:
        assert gradients(model, [batch], few)[0] != pytest.approx(one[0], rel=1e-4)


def test_gradients_of_several_batches_are_those_of_one(model):
    some = prepare(dataset(4), Renderer(tokenizer())).examples
    several = [some[:3], some[3:4], some[4:]]
    assert_same_gradients(gradients(model, [some], FAST), gradients(model, several, FAST))


def test_without_a_size_of_its_own_a_step_is_a_batch_of_each_process():
    examples = prepare(dataset(20), Renderer(tokenizer())).examples
    options = {"epochs": 1, "batch_tokens": 500, "step_tokens": None, "seed": 3}
    alone, eight = (plan_steps(examples, processes=n, **options) for n in (1, 8))
    assert {len(step.batches) for step in alone} == {1}
    assert [len(step.batches) for step in eight[:-1]] == [8] * (len(eight) - 1)
    assert sum(len(step.batches) for step in eight) == len(alone)


def test_a_gradient_that_is_no_number_stops_it_before_any_weight_is_one(tmp_path, monkeypatch):
    policy, out = causal_lm(tmp_path / "policy"), tmp_path / "out"
    monkeypatch.setattr(
        training.Accelerator, "clip_grad_norm_", lambda *_: torch.tensor(float("inf"))
    )
    with pytest.raises(FloatingPointError, match="the gradient's norm is inf at step 0"):
        train(policy, dataset(), out, SHORT)
    assert not (out / "model.safetensors").exists()


def test_the_best_checkpoint_is_kept_and_not_the_last(tmp_path, monkeypatch):
    policy, out = causal_lm(tmp_path / "policy"), tmp_path / "out"
    briers = iter([0.3, 0.1, 0.2])
    kept = []
    measure = training.measure

    def measured(accelerator, model, *rest):
        kept.append(model.network.score.weight.detach().clone())
        return measure(accelerator, model, *rest) | {"brier_last": next(briers)}

    monkeypatch.setattr(training, "measure", measured)
    found = train(policy, dataset(), out, SHORT.model_copy(update={"epochs": 3}))
    assert found["brier_last"] == 0.1
    weights = weights_of(out)
    assert torch.equal(weights["score.weight"], kept[1].to(torch.bfloat16))
    assert not torch.equal(weights["score.weight"], kept[2].to(torch.bfloat16))


def test_the_embeddings_stay_and_the_rest_learns(tmp_path):
    policy, out = causal_lm(tmp_path / "policy"), tmp_path / "out"
    train(policy, dataset(), out, SHORT)
    before, after = weights_of(policy), weights_of(out)
    same_as_before = {name for name in before if torch.equal(before[name].bfloat16(), after[name])}
    assert "model.embed_tokens.weight" in same_as_before
    assert not any("proj" in name for name in same_as_before)


def test_an_averaged_target_network_is_another_than_the_online_one(tmp_path):
    policy = causal_lm(tmp_path / "policy")
    for network in ("online", "ema"):
        settings = SHORT.model_copy(
            update={"target_network": network, "lam": 0.0, "warm_lam": None}
        )
        train(policy, dataset(), tmp_path / network, settings)
    assert not same(weights_of(tmp_path / "online"), weights_of(tmp_path / "ema"))


def test_it_is_logged_for_tensorboard(trained):
    events = EventAccumulator(str(trained[0] / "tensorboard")).Reload()
    assert {"loss", "lr", "auc_last"} <= set(events.Tags()["scalars"])
    assert events.Scalars("loss")[-1].step == trained[2][-1][1]


def test_what_broke_off_is_begun_again_by_the_same_command(tmp_path, monkeypatch):
    policy, out = causal_lm(tmp_path / "policy"), tmp_path / "out"

    def killed(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(progress.TrainingRun, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        train(policy, dataset(), out, SHORT)
    assert (out / "critic.json").exists()
    assert (out / "state").exists()  # what the command goes by: it is not finished
    monkeypatch.undo()
    with pytest.raises(CriticInputError, match="of other settings, data or number of processes"):
        train(policy, dataset(), out, SHORT.model_copy(update={"lr": 1e-4}))
    train(policy, dataset(), out, SHORT)
    assert not (out / "state").exists()


def test_a_loss_that_is_no_number_stops_it_and_keeps_the_best_checkpoint(tmp_path, monkeypatch):
    policy, out = causal_lm(tmp_path / "policy"), tmp_path / "out"
    train(policy, dataset(), out, SHORT)
    before = weights_of(out)
    nan = torch.tensor(float("nan"))
    monkeypatch.setitem(training.LOSSES, "bce", lambda raw, targets: raw.squeeze(-1) * nan)
    with pytest.raises(FloatingPointError, match="at step 0"):
        train(policy, dataset(), out, SHORT)
    assert same(before, weights_of(out))


def test_a_full_disk_stops_it_and_keeps_the_best_checkpoint(tmp_path, monkeypatch):
    policy, out = causal_lm(tmp_path / "policy"), tmp_path / "out"
    train(policy, dataset(), out, SHORT)
    before = weights_of(out)

    def full(folder, card):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress, "write_card", full)
    with pytest.raises(OSError, match="No space left"):
        train(policy, dataset(), out, SHORT)
    assert same(before, weights_of(out))
    assert not list(out.glob("*.tmp"))


def test_it_stops_early_where_nothing_gets_better(tmp_path):
    policy = causal_lm(tmp_path / "policy")
    settings = FAST.model_copy(update={"lr": 1e-12, "patience": 2, "epochs": 50})
    seen = []
    train(policy, dataset(), tmp_path / "out", settings, progress=lambda s, n, m: seen.append(s))
    assert max(seen) < 50


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one(tmp_path):
    policy = causal_lm(tmp_path / "policy")
    write_trajectories(tmp_path / "data.jsonl", dataset())
    settings = ["--epochs", "2", "--lr", "3e-3", "--batch-tokens", "300", "--step-tokens", "900",
                "--held-out", "0.2"]  # fmt: skip
    # with --cpu it would start its processes by mpirun, or without that one only
    for processes, kind, out in (("1", "--cpu", "one"), ("2", "--multi_gpu", "two")):
        command = [
            sys.executable, "-m", "accelerate.commands.launch", kind, "--num_processes",
            processes, "--num_machines", "1", "--mixed_precision", "bf16", "--main_process_port",
            "0", "-m", "critic", "train",
            "--init", str(policy), "--data", str(tmp_path / "data.jsonl"),
            "--out", str(tmp_path / out), "--json", *settings,
        ]  # fmt: skip
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        assert json.loads(told.stdout)["processes"] == int(processes)
    one, two = (
        [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").open()]
        for out in ("one", "two")
    )
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (one, two)]
    assert len(losses[0]) > 3
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    assert same(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"), atol=5e-3, rtol=0.05)


def test_targets_of_a_batch_are_by_trajectory():
    examples = prepare(dataset(2), Renderer(tokenizer())).examples
    values = [0.0] * sum(e.turns for e in examples)
    targets = targets_of(values, examples, lam=1.0, gamma=1.0)
    assert targets.tolist() == [e.reward for e in examples for _ in range(e.turns)]


def test_batches_stay_within_their_tokens_and_hold_everything_once():
    examples = prepare(dataset(20), Renderer(tokenizer())).examples
    groups = by_length(examples, 500, seed=1)
    assert all(collate(g, 0).ids_BL.numel() <= 500 or len(g) == 1 for g in groups)
    assert sorted(id(e) for g in groups for e in g) == sorted(map(id, examples))


@pytest.mark.parametrize("together", [1, 2])
def test_a_plan_reads_everything_once_an_epoch(together):
    examples = prepare(dataset(20), Renderer(tokenizer())).examples
    options = {"epochs": 2, "batch_tokens": 500, "step_tokens": 900, "seed": 3}
    plan = plan_steps(examples, together=together, **options)
    for epoch in range(2):
        read = [e for s in plan if s.epoch == epoch for b in s.batches for e in b]
        assert sorted(map(id, read)) == sorted(map(id, examples))
    assert [s.last_of_epoch for s in plan].count(True) == 2
    assert plan == plan_steps(examples, together=together, **options)


def test_trajectories_of_one_task_stay_together_where_they_are_to_be_compared():
    examples = prepare(dataset(20), Renderer(tokenizer())).examples
    plan = plan_steps(examples, epochs=1, batch_tokens=500, step_tokens=None, together=2, seed=3)
    for step in plan:
        for batch in step.batches:
            tasks = [e.task_id for e in batch]
            assert all(tasks.count(task) == 2 for task in tasks)


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
    copy_files(trained[0], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = {"0": "a", "1": "b"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CriticInputError, match="a head of 2 labels"):
        Scorer(tmp_path)


@pytest.mark.parametrize("change", ["no head", "two rows", "no weights at all"])
def test_a_checkpoint_whose_weights_hold_another_head_is_refused(trained, tmp_path, change):
    copy_files(trained[0], tmp_path)
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
    copy_files(trained[0], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32}))
    with pytest.raises(HistoryTooLong, match="the critic reads 32"):
        Scorer(tmp_path).score([Message.user("word " * 60)], [Message.assistant("a")])
