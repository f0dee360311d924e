"""What becomes of a critic's scores: how they are kept, and how much of them is asked for."""

from pilotfish import Lookahead
from search.contracts import Score
from search.errors import CriticError
from search.fakes import FakeCritic, FakePolicy, MemoryJournal, turn_by_turn
from search.replay import replay
from tests.search.test_run import ONE, THREE_TURNS, bash, make_run


async def test_a_journal_of_before_there_were_spreads_and_counts_is_read():
    journal = MemoryJournal()
    critic = FakeCritic(lambda s, a: 0.5)
    await make_run(FakePolicy(THREE_TURNS), journal=journal, critic=critic, lookahead=ONE).run()
    entries = await journal.entries()
    for entry in entries:
        for name in ("spreads", "regression_passed", "generated_passed"):
            entry.pop(name, None)
    [begun] = replay(entries).values()
    assert begun.trajectory.qs == [0.5] * 3
    assert begun.trajectory.spreads == [None] * 3


async def test_spreads_are_kept_wherever_q_is():
    class Unsure(FakeCritic):
        async def score(self, state, actions, *, session=None):
            scores = await super().score(state, actions)
            return [Score(score.q, spread=score.q / 10) for score in scores]

    critic = Unsure(lambda s, a: 0.9 if "pwd" in a.text else 0.4)
    policy = turn_by_turn([bash("ls"), bash("pwd"), bash("pwd")], [bash("submit")])
    for k in (1, 3):
        journal = MemoryJournal()
        run = make_run(FakePolicy(policy), journal=journal, critic=critic, lookahead=Lookahead(k=k))
        [trajectory] = (await run.run()).trajectories
        assert trajectory.spreads == [q / 10 for q in trajectory.qs]
        [begun] = replay(await journal.entries()).values()
        assert begun.trajectory == trajectory
    assert [c.spread for c in trajectory.steps[0].decision.candidates] == [0.04, 0.09, 0.09]


async def test_a_critic_may_read_no_more_than_the_last_turn_of_what_is_finished():
    critic = FakeCritic(lambda s, a: len(s) / 10)
    critic.every_turn = False
    [trajectory] = (await make_run(FakePolicy(THREE_TURNS), critic=critic, lookahead=ONE).run()
                    ).trajectories  # fmt: skip
    assert trajectory.qs == [None, None, 0.6]
    assert critic.scored == 1


async def test_reading_the_last_turn_takes_nothing_from_those_that_were_scored_on_the_way():
    class Late(FakeCritic):
        async def score(self, state, actions, *, session=None):
            if session is not None and len(state) > 2:
                raise CriticError("away for a moment")
            return await super().score(state, actions)

    critic = Late(lambda s, a: 0.5 + len(s) / 100)
    critic.every_turn = False
    policy = turn_by_turn([bash("ls"), bash("pwd")], [bash("submit"), bash("submit")])
    run = make_run(FakePolicy(policy), critic=critic, lookahead=Lookahead(k=2))
    [trajectory] = (await run.run()).trajectories
    assert trajectory.qs == [0.52, 0.54]
