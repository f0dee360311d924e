"""Scoring in process: what was read is kept, and changes nothing."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from critic.checkpoint import CriticCard, write_card
from critic.model import from_causal_lm
from critic.scoring import Scorer
from pilotfish import Message
from tests.tiny import causal_lm, tokenizer

HISTORY = [Message.system("s"), Message.user("the task")]
for number in range(6):
    HISTORY += [Message.assistant(f"ls {number}"), Message.user(f"seen {number} " * 4)]
TURNS = [i for i, m in enumerate(HISTORY) if m.role == "assistant"]
ACTIONS = [Message.assistant(text) for text in ("submit", "ls", "a much longer command " * 3)]


def llama(folder):
    words = tokenizer()
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(words), hidden_size=32, intermediate_size=64,
                    num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                    pad_token_id=words.pad_token_id)
    ).save_pretrained(folder)  # fmt: skip
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def folder(request, tmp_path_factory):
    made = tmp_path_factory.mktemp(request.param)
    policy = causal_lm(made / "policy") if request.param == "qwen3" else llama(made / "policy")
    network = from_causal_lm(policy, head_std=0.5)
    network.save_pretrained(made / "critic")
    tokenizer().save_pretrained(made / "critic")
    write_card(made / "critic", CriticCard())
    return made / "critic"


def one_by_one(scorer, state, actions):
    """Each in a pass of its own over all of it, nothing kept."""
    return [scorer.score_turns([*state, action])[-1] for action in actions]


def test_candidates_are_scored_as_they_are_alone(folder):
    scorer = Scorer(folder)
    for turn in TURNS:
        state = HISTORY[:turn]
        assert scorer.score(state, ACTIONS) == pytest.approx(
            one_by_one(scorer, state, ACTIONS), abs=1e-5
        )


def test_trajectories_side_by_side_do_not_mix(folder):
    scorer = Scorer(folder)
    other = [*HISTORY[:2], Message.assistant("cat"), *HISTORY[3:]]
    for turn in TURNS[1:]:
        for history in (HISTORY, other):
            state = history[:turn]
            assert scorer.score(state, ACTIONS) == pytest.approx(
                one_by_one(scorer, state, ACTIONS), abs=1e-5
            )


def test_the_newest_of_several_states_goes_on(folder):
    scorer = Scorer(folder)
    for history in ([Message.user("another task")], HISTORY[:3], HISTORY[:5]):
        scorer.warm(history)
    assert len(scorer._kept) == 2


def test_of_a_state_that_goes_on_only_what_is_new_is_computed(folder):
    scorer = Scorer(folder)
    computed = []
    body = scorer.model.network.base_model
    body.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    for turn in TURNS:
        scorer.warm(HISTORY[:turn])
    tokens = len(scorer.renderer.render_state(HISTORY[: TURNS[-1]]))
    assert sum(computed) == tokens
    computed.clear()
    scorer.score(HISTORY[: TURNS[-1]], [ACTIONS[0]])
    own = len(scorer.renderer.render_action(HISTORY[: TURNS[-1]], ACTIONS[0])) - tokens
    assert computed == [own]


def test_what_is_kept_has_a_bound(folder, monkeypatch):
    monkeypatch.setattr("critic.scoring.KEPT_STATES", 2)
    scorer = Scorer(folder)
    for word in "abcd":
        scorer.warm([Message.system("s"), Message.user(f"task {word}")])
    assert len(scorer._kept) == 2


def test_a_history_longer_than_the_critic_reads_is_scored_through_its_window(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_card(tmp_path, CriticCard(max_tokens=60))
    scorer = Scorer(tmp_path)
    assert len(scorer.renderer.windows(HISTORY)) > 1
    qs = scorer.score_turns(HISTORY)
    for turn, q in zip(TURNS, qs, strict=True):
        assert scorer.score(HISTORY[:turn], [HISTORY[turn]]) == pytest.approx([q], abs=1e-5)


def test_kept_states_of_equal_length_are_told_apart(folder):
    scorer = Scorer(folder)
    first, second = ([*HISTORY[:2], Message.assistant(word), HISTORY[3]] for word in ("ab", "ba"))
    for state in (first, second, first):
        longer = [*state, *HISTORY[4:6]]
        assert scorer.score(state, ACTIONS) == pytest.approx(
            one_by_one(scorer, state, ACTIONS), abs=1e-5
        )
    assert scorer.score(longer, ACTIONS) == pytest.approx(
        one_by_one(scorer, longer, ACTIONS), abs=1e-5
    )
    third = [*second, *HISTORY[4:6]]
    assert scorer.score(third, ACTIONS) == pytest.approx(
        one_by_one(scorer, third, ACTIONS), abs=1e-5
    )
