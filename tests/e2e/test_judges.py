"""Every kind of judge on real vLLM, in a step and in a selection, by configuration alone.

The demo's policy, a chat model that answers neither YES nor a verdict by itself, is held to them by
vLLM's structured outputs; the published critic is a random one with 26 labels, made on the spot.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import torch
from transformers import Qwen3Config, Qwen3ForSequenceClassification

from critic.rendering import Renderer
from examples.bugfix.collect import strategy, tasks_of
from pilotfish import AsyncPilotfish, Message, Trajectory
from search.contracts import Critic
from service.app import create_app
from service.local.redis_server import redis_server
from service.local.stack import Stack
from service.local.vllm_server import VllmServer, VllmSettings, vllm_server
from service.parts import Parts
from service.settings import Settings
from tests.tiny import causal_lm, tokenizer
from tests.upstream import serving

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]
shared = pytest_asyncio.fixture(scope="module", loop_scope="module")
LABELS = 26
KINDS = ["yes_no", "reasoning", "classify", "ensemble"]
STATE = [Message.system("Act."), Message.user("Fix the bug in a.py.")]
ACTIONS = [Message.assistant(f"I {do}.\n```bash\n{do} a.py\n```") for do in ("cat", "rm", "touch")]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier with 26 labels, and the tokenizer that it reads by."""
    folder = tmp_path_factory.mktemp("published")
    causal_lm(folder / "policy")
    config = Qwen3Config.from_pretrained(folder / "policy")
    config.num_labels = LABELS
    config.problem_type = "multi_label_classification"
    torch.manual_seed(2)
    Qwen3ForSequenceClassification(config).eval().save_pretrained(folder / "critic")
    tokenizer().save_pretrained(folder / "critic")
    return folder / "critic"


@shared
async def classifier(published: Path) -> AsyncIterator[VllmServer]:
    settings = VllmSettings(model=str(published), name="many", runner="pooling", eager=True)
    async with vllm_server(settings) as server:
        yield server


@pytest.fixture(scope="module")
def critics(stack: Stack, classifier: VllmServer, published: Path) -> dict[str, Any]:
    """As a file of settings has them."""
    judge = {"url": f"{stack.servers['policy'].url}/v1", "model": "bugfix-policy"}
    yes_no = {"extra": {"structured_outputs": {"choice": ["YES", "NO"]}}}
    verdicts = {"choice": ["VERDICT: GOOD", "VERDICT: BAD"]}
    reasoning = {"votes": 6, "temperature": 2.0, "max_tokens": 16}
    return {
        # its vocabulary has no word YES or NO, only their letters
        "yes_no": {"type": "yes_no", "yes": ["y"], "no": ["n"], "max_chars": 3000} | judge | yes_no,
        "reasoning": {"type": "reasoning", "extra": {"structured_outputs": verdicts}}
        | {"max_chars": 3000, **reasoning}
        | judge,
        "classify": {
            "type": "classify",
            "url": classifier.url,
            "model": "many",
            "tokenizer": str(published),
            "max_tokens": 2048,
        },
        "ensemble": {"type": "ensemble", "members": ["yes_no", "classify"], "pessimism": 0.5},
    }


@shared
async def service(stack: Stack, critics: dict[str, Any]) -> AsyncIterator[AsyncPilotfish]:
    """The service, with these critics in its settings."""
    policy = {"type": "openai", "url": f"{stack.servers['policy'].url}/v1"}
    async with redis_server() as redis_url:
        settings = Settings.model_validate(
            {
                "policies": {"p": policy | {"model": "bugfix-policy"}},
                "critics": critics,
                "redis_url": redis_url,
            }
        )
        async with serving(create_app(settings)) as url, AsyncPilotfish(url, timeout=300) as client:
            yield client


@shared
async def parts(critics: dict[str, Any]) -> AsyncIterator[Parts]:
    async with Parts(Settings.model_validate({"critics": critics})) as opened:
        yield opened


def critic_of(parts: Parts, kind: str) -> Critic:
    critic = parts.critic(kind)
    assert critic is not None
    return critic


@pytest.mark.parametrize("kind", KINDS)
async def test_a_step_is_decided_by_it(service: AsyncPilotfish, kind: str) -> None:
    task = tasks_of("heldout", 1)[0]
    state = [Message.user(task.statement)]
    lookahead = strategy(k=4, n=1, seed=3).lookahead
    decision = (await service.lookahead(state, lookahead, critic=kind)).decision
    assert not decision.degraded, decision.notes
    assert not decision.notes
    qs = [candidate.q for candidate in decision.candidates]
    assert all(q is not None and 0 <= q <= 1 for q in qs)
    assert decision.winner.q == max(q for q in qs if q is not None)
    has_spread = kind in ("reasoning", "ensemble")
    assert all((c.spread is not None) is has_spread for c in decision.candidates)


@shared
async def finished(service: AsyncPilotfish) -> list[Trajectory]:
    """Attempts of the policy alone, which nobody has scored."""
    run = await service.run(tasks_of("heldout", 2)[1], strategy(k=1, n=3, seed=4), critic="none")
    return await service.trajectories(run.id)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_run_selects_by_it(service: AsyncPilotfish, kind: str) -> None:
    run = await service.run(tasks_of("heldout", 1)[0], strategy(k=1, n=2, seed=5), critic=kind)
    assert (run.status, run.reason) == ("succeeded", "argmax")
    assert all(t.last_q is not None for t in run.trajectories)
    chosen = run.trajectories[run.selected or 0]
    peers = [t for t in run.trajectories if (t.exit_status == chosen.exit_status)]
    assert chosen.last_q == max(t.last_q for t in peers if t.last_q is not None)


@pytest.mark.parametrize("kind", KINDS)
async def test_finished_trajectories_are_ranked_by_it(
    service: AsyncPilotfish, finished: list[Trajectory], kind: str
) -> None:
    choice = await service.select(finished, critic=kind)
    assert choice.reason == "argmax"
    assert all(q is not None and 0 <= q <= 1 for q in choice.q)
    assert sorted(choice.ranking) == [0, 1, 2]


async def test_yes_and_no_have_the_probabilities_of_the_model(parts: Parts, stack: Stack) -> None:
    """The mask of structured outputs leaves their ratio as it is: the same Q comes of the model's
    own log-probabilities of both tokens, which vLLM gives without a mask."""
    critic = critic_of(parts, "yes_no")
    scores = await critic.score(STATE, ACTIONS)
    assert len({score.q for score in scores}) > 1
    url, prompts = stack.servers["policy"].url, critic.asking  # type: ignore[attr-defined]
    for score, action in zip(scores, ACTIONS, strict=True):
        body = {
            "model": "bugfix-policy",
            "messages": prompts.of_action(STATE, action),
            "max_tokens": 1,
            "logprobs": True,
            "logprob_token_ids": [await token(url, "Y"), await token(url, "N")],
        }
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
            answer = (await client.post("/v1/chat/completions", json=body)).json()
        entries = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        told = {entry["token"]: entry["logprob"] for entry in entries}
        assert score.q == pytest.approx(1 / (1 + math.exp(told["N"] - told["Y"])), abs=0.02)


async def token(url: str, text: str) -> int:
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        body = {"model": "bugfix-policy", "prompt": text, "add_special_tokens": False}
        [only] = (await client.post("/tokenize", json=body)).json()["tokens"]
    return int(only)


async def test_votes_are_counted(parts: Parts) -> None:
    [score] = await critic_of(parts, "reasoning").score(STATE, ACTIONS[:1])
    assert (score.q * 6) == pytest.approx(round(score.q * 6))
    assert 0.1 < (score.spread or 0) < 0.2  # of six votes, however they fall


async def test_the_first_of_many_labels_is_success(parts: Parts, published: Path) -> None:
    scores = await critic_of(parts, "classify").score(STATE, ACTIONS)
    model = Qwen3ForSequenceClassification.from_pretrained(published, dtype=torch.float32).eval()
    renderer = Renderer(tokenizer(), max_tokens=2048)
    for score, action in zip(scores, ACTIONS, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([renderer.render_action(STATE, action)])).logits[0]
        assert logits.shape == (LABELS,)
        assert score.q == pytest.approx(float(torch.sigmoid(logits[0])), abs=0.01)


async def test_an_ensemble_is_the_mean_of_its_members_less_their_spread(parts: Parts) -> None:
    asked = (critic_of(parts, name).score(STATE, ACTIONS) for name in ("yes_no", "classify"))
    one, other = await asyncio.gather(*asked)
    for a, b, both in zip(one, other, await critic_of(parts, "ensemble").score(STATE, ACTIONS),
                          strict=True):  # fmt: skip
        spread = abs(a.q - b.q) / 2
        assert both.spread == pytest.approx(spread, abs=0.01)
        assert both.q == pytest.approx((a.q + b.q) / 2 - spread / 2, abs=0.02)


async def test_what_the_judge_has_read_it_does_not_read_again(parts: Parts, stack: Stack) -> None:
    """The next step's question begins with this step's: only what is new is read."""
    critic = critic_of(parts, "yes_no")
    history = [*STATE, Message.user("word " * 300)]
    await critic.score(history, ACTIONS[:1])
    before = await hits(stack)
    await critic.score(history, ACTIONS[1:2])
    await critic.score([*history, ACTIONS[0], Message.user("seen")], ACTIONS[1:2])
    assert await hits(stack) - before > 2 * 300


async def hits(stack: Stack) -> float:
    url = f"{stack.servers['policy'].url}/metrics"
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        metrics = (await client.get(url)).text
    name = "vllm:prefix_cache_hits_total"
    return sum(float(row.split()[-1]) for row in metrics.splitlines() if row.startswith(name))


async def test_a_history_that_does_not_fit_the_judge_is_told(service: AsyncPilotfish) -> None:
    with pytest.raises(Exception, match=r"critic: .*(length|characters)"):
        await service.score([Message.user("word " * 5000), Message.assistant("x")], critic="yes_no")
