"""What one guided step does, over the fakes."""

import asyncio

import pytest

from pilotfish import Message
from pilotfish.strategy import Lookahead, Sampling
from search.contracts import Sample
from search.errors import CriticError, PolicyError
from search.fakes import FailingPolicy, FakeCritic, FakePolicy, saying
from search.lookahead import decide

STATE = [Message.system("s"), Message.user("u")]


def by_length(state, action):
    return min(1.0, len(action.text) / 10)


def samples(*pairs):
    def script(state, n):
        return [
            Sample(index=i, message=Message.assistant(text), logprob=logprob)
            for i, (text, logprob) in enumerate(pairs)
        ]

    return script


async def test_the_candidate_of_highest_q_is_chosen_and_everything_is_recorded():
    decision = await decide(
        FakePolicy(saying("a", "aaa", "aa")), FakeCritic(by_length), STATE, Lookahead(k=3)
    )
    assert decision.message.text == "aaa"
    assert decision.reason == "argmax"
    assert [c.q for c in decision.candidates] == [0.1, 0.3, 0.2]
    assert not decision.degraded
    assert decision.usage.completion_tokens == 3


async def test_all_candidates_are_asked_for_in_one_request():
    policy = FakePolicy(saying("a", "b"))
    await decide(policy, FakeCritic(by_length), STATE, Lookahead(k=2))
    assert [n for n, _ in policy.asked] == [2]


async def test_equal_candidates_are_scored_once():
    critic = FakeCritic(by_length)
    decision = await decide(FakePolicy(saying("a", "bb", "a", "a")), critic, STATE, Lookahead(k=4))
    assert critic.scored == 2
    assert [c.duplicate_of for c in decision.candidates] == [None, None, 0, 0]
    assert [c.q for c in decision.candidates] == [0.1, 0.2, 0.1, 0.1]


async def test_unanimous_candidates_say_so_and_carry_their_q():
    decision = await decide(
        FakePolicy(saying("a", "a")), FakeCritic(by_length), STATE, Lookahead(k=2)
    )
    assert (decision.reason, decision.winner.q) == ("unanimous", 0.1)


async def test_ties_are_broken_by_log_probability_and_then_by_index():
    critic = FakeCritic(lambda state, action: 0.5)
    policy = FakePolicy(samples(("a", -3.0), ("b", -1.0), ("c", -1.0)))
    decision = await decide(policy, critic, STATE, Lookahead(k=3))
    assert decision.chosen == 1


async def test_a_vote_sums_q_over_equal_candidates():
    critic = FakeCritic(by_length)  # 0.1 a character
    policy = FakePolicy(saying("aa", "bbb", "aa", "c"))
    decision = await decide(policy, critic, STATE, Lookahead(k=4, pick="vote"))
    assert (decision.message.text, decision.reason, decision.chosen) == ("aa", "vote", 0)
    policy = FakePolicy(saying("a", "bbb", "a"))
    decision = await decide(policy, critic, STATE, Lookahead(k=3, pick="vote"))
    assert decision.message.text == "bbb"  # often, but worth little


async def test_a_vote_of_different_candidates_is_an_argmax():
    policy = FakePolicy(saying("a", "ccc", "bb"))
    decision = await decide(policy, FakeCritic(by_length), STATE, Lookahead(k=3, pick="vote"))
    assert decision.message.text == "ccc"


@pytest.mark.parametrize("pick", ["argmax", "softmax", "vote"])
async def test_the_choice_does_not_depend_on_which_of_equals_came_first(pick):
    said = [Sample(index=i, message=Message.assistant(t)) for i, t in enumerate("aba")]
    critic = FakeCritic(lambda state, action: 0.5)
    for seed in range(9):
        lookahead = Lookahead(k=3, pick=pick, sampling=Sampling(seed=seed))
        chosen = {
            (await decide(FakePolicy(lambda s, n, o=order: o), critic, STATE, lookahead)).chosen
            for order in (said, said[::-1])
        }
        assert len(chosen) == 1
        assert pick == "softmax" or chosen == {0}


async def test_one_candidate_is_not_scored():
    critic = FakeCritic(by_length)
    decision = await decide(FakePolicy(saying("a")), critic, STATE, Lookahead(k=1))
    assert (decision.reason, critic.scored, critic.warmed) == ("only", 0, 0)


async def test_the_critic_reads_the_state_while_the_policy_decodes():
    critic = FakeCritic(by_length)
    await decide(FakePolicy(saying("a", "b"), delay=0.01), critic, STATE, Lookahead(k=2))
    assert critic.warmed == 1


async def test_the_policy_decodes_while_the_critic_still_reads_the_state():
    decoding = asyncio.Event()

    class Slow(FakeCritic):
        async def warm(self, state, *, session=None):
            await asyncio.wait_for(decoding.wait(), 5)

    def script(state, n):
        decoding.set()
        return saying("a", "bb")(state, n)

    decision = await decide(FakePolicy(script), Slow(by_length), STATE, Lookahead(k=2))
    assert decision.chosen == 1
    assert not decision.notes


async def test_a_candidate_is_scored_on_arrival_and_not_when_all_are_in():
    events = []

    def script(state, n):
        for i, text in enumerate(["a", "bb", "ccc"]):
            events.append(f"{text} complete")
            yield Sample(index=i, message=Message.assistant(text))

    critic = FakeCritic(lambda s, a: events.append(f"{a.text} scored") or 0.5)
    await decide(FakePolicy(script, delay=0.02), critic, STATE, Lookahead(k=3))
    assert events.index("a scored") < events.index("ccc complete")


async def test_a_candidate_over_the_threshold_ends_the_step_and_cancels_the_rest():
    policy = FakePolicy(saying("aaaaaaaaa", "b", "c"), delay=0.02)
    decision = await decide(policy, FakeCritic(by_length), STATE, Lookahead(k=3, threshold=0.8))
    assert (decision.reason, decision.chosen, decision.degraded) == ("threshold", 0, False)
    assert policy.cancelled == 1


async def test_what_is_cancelled_is_recorded_with_what_it_cost():
    def script(state, n):
        said = Message.assistant("aaaaaaaaa")
        decoding = {0: 6, 2: 5}
        yield Sample(index=1, message=said, tokens=4, prompt_tokens=30, under_way=decoding)
        yield Sample(index=0, message=said, tokens=90)

    policy = FakePolicy(script, delay=0.02)
    decision = await decide(policy, FakeCritic(by_length), STATE, Lookahead(k=3, threshold=0.8))
    assert [(c.tokens, c.error) for c in decision.candidates] == [
        (6, "cancelled"),
        (4, None),
        (5, "cancelled"),
    ]
    assert (decision.usage.prompt_tokens, decision.usage.completion_tokens) == (30, 15)
    assert decision.chosen == 1


async def test_at_the_deadline_the_best_so_far_is_taken():
    policy = FakePolicy(saying("aa", *["b"] * 50), delay=0.05)
    lookahead = Lookahead(k=51, deadline=0.12)
    decision = await decide(policy, FakeCritic(by_length), STATE, lookahead)
    assert (decision.reason, decision.chosen, decision.degraded) == ("deadline", 0, True)
    assert policy.cancelled == 1


async def test_a_failing_sample_costs_only_itself():
    def script(state, n):
        yield Sample(index=0, error="out of memory")
        yield Sample(index=1, message=Message.assistant("aa"))

    decision = await decide(FakePolicy(script), FakeCritic(by_length), STATE, Lookahead(k=2))
    assert decision.chosen == 1
    assert decision.degraded
    assert decision.notes == ["1 of 2 candidates"]
    assert decision.candidates[0].error == "out of memory"


async def test_a_policy_that_breaks_off_leaves_what_it_gave():
    def script(state, n):
        yield Sample(index=0, message=Message.assistant("aa"))
        raise PolicyError("connection lost")

    decision = await decide(FakePolicy(script), FakeCritic(by_length), STATE, Lookahead(k=2))
    assert decision.degraded
    assert "policy stopped early: connection lost" in decision.notes


async def test_without_any_candidate_the_error_says_why():
    with pytest.raises(PolicyError, match="not there"):
        await decide(FailingPolicy(), None, STATE, Lookahead(k=2))
    with pytest.raises(PolicyError, match="answered nothing"):
        await decide(FakePolicy(saying()), FakeCritic(by_length), STATE, Lookahead(k=2))


@pytest.mark.parametrize(
    ("texts", "chosen", "reason"),
    [
        ([("a", -1.0), ("b", -2.0), ("b", -2.0)], 1, "majority"),
        ([("a", -2.0), ("b", -1.0), ("c", -3.0)], 1, "most_probable"),
        ([("a", None), ("b", None)], 0, "most_probable"),
    ],
)
async def test_with_the_critic_down_the_documented_rule_decides(texts, chosen, reason):
    critic = FakeCritic(by_length)
    critic.down = True
    decision = await decide(FakePolicy(samples(*texts)), critic, STATE, Lookahead(k=len(texts)))
    assert (decision.chosen, decision.reason, decision.degraded) == (chosen, reason, True)
    assert "the critic is not there" in decision.notes[0]


async def test_a_q_that_is_no_number_is_the_critics_failure():
    decision = await decide(
        FakePolicy(saying("a", "b")),
        FakeCritic(lambda s, a: float("nan") if a.text == "a" else 0.1),
        STATE,
        Lookahead(k=2),
    )
    assert decision.chosen == 1
    assert decision.degraded


async def test_softmax_is_seeded_and_prefers_high_q():
    async def pick(seed):
        policy = FakePolicy(saying("a", "aaaaa"))
        strategy = Lookahead(k=2, pick="softmax", pick_temperature=0.2)
        return (await decide(policy, FakeCritic(by_length), STATE, strategy, seed=seed)).chosen

    picks = [await pick(seed) for seed in range(200)]
    assert picks == [await pick(seed) for seed in range(200)]
    assert 0.8 < sum(picks) / 200 < 0.96  # exp(-0.4 / 0.2): 0.88


async def test_a_seed_among_the_callers_own_fields_seeds_the_choice_too():
    async def pick(seed):
        sampling = Sampling(extra={"seed": seed})
        strategy = Lookahead(k=2, pick="softmax", pick_temperature=1.0, sampling=sampling)
        policy = FakePolicy(saying("a", "aaaaa"))
        return (await decide(policy, FakeCritic(by_length), STATE, strategy)).chosen

    picks = [await pick(seed) for seed in range(20)]
    assert picks == [await pick(seed) for seed in range(20)]
    assert set(picks) == {0, 1}
    assert await pick("no number") in (0, 1)


async def test_one_candidate_is_scored_where_it_is_asked_for():
    policy = FakePolicy(saying("aaaa"))
    alone = await decide(policy, FakeCritic(by_length), STATE, Lookahead(k=1))
    scored = await decide(policy, FakeCritic(by_length), STATE, Lookahead(k=1), score_one=True)
    assert (alone.winner.q, scored.winner.q) == (None, 0.4)
    assert not scored.degraded


async def test_a_caller_that_leaves_cancels_policy_and_critic():
    scoring, freed = asyncio.Event(), asyncio.Event()

    class Slow(FakeCritic):
        async def score(self, state, actions, *, session=None):
            scoring.set()
            try:
                await asyncio.Event().wait()
            finally:
                freed.set()
            raise CriticError("never")

    policy = FakePolicy(saying("a", "b"), delay=0.01)
    task = asyncio.create_task(decide(policy, Slow(by_length), STATE, Lookahead(k=2)))
    await asyncio.wait_for(scoring.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert freed.is_set()


async def test_the_seed_of_the_request_goes_to_the_policy():
    policy = FakePolicy(saying("a"))
    await decide(policy, None, STATE, Lookahead(k=1), seed=7)
    await decide(policy, None, STATE, Lookahead(k=1, sampling=Sampling(seed=3)), seed=7)
    assert [s.seed for _, s in policy.asked] == [7, 3]
