"""Guided search end to end: real vLLM, real critic, real sandboxes, real Redis."""

from __future__ import annotations

import httpx
import openai
import pytest
from accelerate import Accelerator

from critic.data import prepare
from critic.measuring import values_of
from critic.scoring import Scorer
from examples.bugfix.collect import strategy, tasks_of
from pilotfish import Lookahead, Message, Strategy, Task
from pilotfish.errors import BadRequest
from service.sandboxes.bubblewrap import BubblewrapProvider
from tests.e2e.conftest import CRITIC

pytestmark = pytest.mark.vllm
MODEL = "bugfix-policy"


@pytest.fixture(scope="module")
def tasks():
    return tasks_of("heldout", 6)


@pytest.fixture(scope="module")
def guided_run(stack_url, tasks):
    from pilotfish import Pilotfish

    with Pilotfish(stack_url, timeout=300) as client:
        run = client.run(tasks[0], strategy(k=4, n=3, seed=1))
        return run, client.trajectories(run.id)


def test_a_run_ends_with_candidates_scores_and_a_selected_trajectory(guided_run):
    run, trajectories = guided_run
    assert run.status == "succeeded"
    assert len(trajectories) == 3
    chosen = trajectories[run.selected]
    for trajectory in trajectories:
        assert trajectory.exit_status in ("Submitted", "StepLimitExceeded", "FormatError",
                                          "ContextLimitExceeded")  # fmt: skip
        assert trajectory.reward in (0.0, 1.0)
        for step in trajectory.steps:
            candidates = step.decision.candidates
            assert len(candidates) == 4
            assert all(c.q is not None and 0 <= c.q <= 1 for c in candidates)
            assert all(c.logprob is not None and c.logprob <= 0 for c in candidates)
            assert step.decision.winner.q == max(c.q for c in candidates)
            assert not step.decision.degraded
            assert step.decision.prompt_tokens > 0
    submitted = [t for t in trajectories if t.submitted] or trajectories
    assert chosen.last_q == max(t.last_q for t in submitted)


def test_actions_were_executed_in_the_sandbox(guided_run, tasks):
    _, trajectories = guided_run
    outputs = [s.observation.output for t in trajectories for s in t.steps if s.observation]
    assert any("def " in output or ".py" in output for output in outputs)
    assert all("hidden_tests" not in output for output in outputs)


def test_no_sandbox_is_left(guided_run):
    run, _ = guided_run
    assert not [r for r in BubblewrapProvider().state.all() if r.labels.get("run") == run.id]


def test_the_same_q_in_training_in_process_and_on_vllm(pilotfish, guided_run):
    scorer = Scorer(CRITIC)
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    for trajectory in guided_run[1]:
        served = pilotfish.score(trajectory.messages)
        in_process = scorer.score_turns(trajectory.messages)
        [example] = prepare([trajectory], scorer.renderer).examples
        pad = int(scorer.model.network.config.pad_token_id)
        [trained] = values_of(accelerator, scorer.model, [example], 16_000, pad)
        assert served == pytest.approx(in_process, abs=0.02)
        assert trained == pytest.approx(in_process, abs=0.02)
        assert trajectory.qs == pytest.approx(served, abs=0.02)


def test_search_beats_none_on_what_it_was_made_for(pilotfish, tasks):
    """Not a measurement: only that both regimes run through and judge by the hidden tests."""
    for k in (1, 4):
        run = pilotfish.run(tasks[1], strategy(k=k, n=2, seed=5))
        assert run.status == "succeeded"
        assert all(t.last_q is not None and t.reward is not None for t in run.trajectories)


def test_events_tell_the_run_as_it_goes(pilotfish, tasks):
    run = pilotfish.create_run(tasks[2], strategy(k=2, n=1, seed=3))
    events = list(pilotfish.events(run.id))
    kinds = [event.kind for event in events]
    assert kinds[:3] == ["trajectory_started", "sandbox_started", "decided"]
    assert kinds[-2:] == ["selected", "run_ended"]
    rest = list(pilotfish.events(run.id, after=events[2].id))
    assert [e.id for e in rest] == [e.id for e in events[3:]]


def test_the_openai_sdk_is_guided_by_changing_its_base_url(stack_url, tasks):
    messages = [{"role": "user", "content": tasks[0].statement}]
    with openai.OpenAI(base_url=f"{stack_url}/v1", api_key="none") as client:
        assert f"{MODEL}:lookahead" in [m.id for m in client.models.list()]
        whole = client.chat.completions.create(
            model=f"{MODEL}:lookahead",
            messages=messages,
            max_tokens=80,
            extra_body={"pilotfish": {"k": 4, "candidates": True}},
        )
        scores = [c["q"] for c in whole.pilotfish["candidates"]]
        assert len(scores) == 4
        assert whole.pilotfish["q"] == max(scores)
        assert whole.choices[0].finish_reason in ("stop", "length")
        stream = client.chat.completions.create(
            model=MODEL,
            messages=messages,
            max_tokens=80,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert chunks[-1].usage.completion_tokens > 0
        plain = client.chat.completions.create(
            model=f"{MODEL}:plain", messages=messages, max_tokens=80
        )
        assert plain.usage.completion_tokens <= 80


def test_a_step_that_was_cut_short_says_what_it_cost(pilotfish, tasks):
    state = [{"role": "user", "content": tasks[0].statement}]
    decision = pilotfish.lookahead(state, lookahead=Lookahead(k=8, threshold=0.0)).decision
    assert decision.reason == "threshold"
    assert len(decision.candidates) == 8
    assert decision.usage.prompt_tokens > 10
    assert all(c.error in (None, "cancelled") for c in decision.candidates)


def test_a_context_too_long_for_the_policy_is_told_as_openai_tells_it(stack_url):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "word " * 5000}]}
    answer = httpx.post(f"{stack_url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_a_context_too_long_for_the_critic_is_told(pilotfish):
    with pytest.raises(Exception, match=r"critic: .*(length|tokens)"):
        pilotfish.score([Message.user("word " * 5000), Message.assistant("x")])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task(id="i", statement="s", image="no-such-image"), "no-such-image"),
        (Task(id="s", statement="s", image="host", setup=["exit 3"]), "3"),
    ],
)
def test_a_sandbox_that_will_not_start_ends_the_run_by_name(pilotfish, task, message):
    run = pilotfish.run(task, Strategy(max_replacements=0))
    assert run.status == "failed"
    assert run.trajectories[0].exit_status == "SandboxError"
    assert message in run.trajectories[0].exit_message


def test_what_the_critic_has_read_it_does_not_read_again(stack, guided_run):
    metrics = httpx.get(f"{stack.servers['critic bugfix-critic'].url}/metrics").text

    def total(name):
        lines = [row for row in metrics.splitlines() if row.startswith(f"vllm:{name}_total")]
        return sum(float(row.rsplit(" ", 1)[1]) for row in lines)

    assert total("prefix_cache_hits") > 0.5 * total("prefix_cache_queries") > 0


def test_a_selection_among_finished_trajectories_is_reproduced(pilotfish, guided_run):
    run, trajectories = guided_run
    again = pilotfish.select(trajectories)
    assert again.chosen == run.selected
    assert pilotfish.select(trajectories, abstain_below=1.0).reason == "abstained"
    with pytest.raises(BadRequest):
        pilotfish.select([])
