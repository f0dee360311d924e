"""Which critics an ablation makes, and how they are compared."""

import pytest

from critic.ablation import BASE, Cell, Found, cells, compare, found_of
from critic.errors import CriticInputError
from critic.reporting import ablation_table
from critic.settings import TrainingSettings
from tests.critic.test_selecting import judged

BASE_SETTINGS = TrainingSettings(warm_lam=None)


def test_all_of_one_seed_come_before_those_of_the_next_and_the_base_is_made_once():
    planned = cells({"lam": ["0.7", "1"], "data": ["0.5", "1"]}, BASE_SETTINGS, range(2))
    names = [cell.name for cell in planned]
    assert names == [f"{n}-seed{s}" for s in range(2) for n in ("base", "lam=1", "data=0.5")]
    assert [cell.settings.seed for cell in planned] == [0, 0, 0, 1, 1, 1]
    assert planned[1].settings.lam_of(0) == 1.0


@pytest.mark.parametrize(
    ("vary", "told"),
    [({"lam": ["2"]}, "lam=2"), ({"data": ["0"]}, "share"), ({"x": ["1"]}, "no setting")],
)
def test_what_cannot_be_varied_is_refused_before_anything_is_trained(vary, told):
    with pytest.raises(CriticInputError, match=told):
        cells(vary, BASE_SETTINGS, [0])


def found(factor, value, seed, gain):
    cell = Cell(factor, value, seed, BASE_SETTINGS)
    rows = [
        judged(f"t{task}", 0.2 + 0.1 * attempt, attempt == (9 if task < gain else 0))
        for task in range(20)
        for attempt in range(10)
    ]
    return found_of(cell, rows)


def test_a_value_is_compared_with_the_base_by_task_over_its_seeds():
    some = [found(BASE, "", 0, 5), found("lam", "1", 0, 10), found(BASE, "", 1, 5),
            found("lam", "1", 1, 12), found("lam", "0", 1, 2)]  # fmt: skip
    base, one, zero = compare(some, draws=200)
    assert (base.seeds, one.seeds, zero.seeds) == (2, 2, 1)
    assert one.by_seed[10] == [0.5, 0.6]
    assert one.best_of[10].value == pytest.approx(0.55)
    assert one.beyond_base[10].value == pytest.approx(0.3)
    assert one.beyond_base[10].low > 0 > zero.beyond_base[10].value
    table = ablation_table([base, one, zero])
    assert "| lam = 1 | 2 |" in table
    assert len(table.splitlines()) == 5


def test_a_table_is_made_of_critics_that_judged_too_little():
    base, few = found(BASE, "", 0, 5), found("max_tokens", "99", 0, 5)
    del few.best_of[10]
    rows = ablation_table(compare([base, few], draws=50)).splitlines()
    assert len(rows) == 4
    assert len({row.count("|") for row in rows}) == 1


def test_lambda_counts_in_a_training_of_one_pass():
    assert TrainingSettings(lam=0.5, epochs=1).lam_of(0) == 0.5
    several = TrainingSettings(lam=0.5, epochs=2)
    assert [several.lam_of(epoch) for epoch in range(2)] == [1.0, 0.5]


def test_a_result_survives_being_written():
    one = found("lam", "1", 0, 10)
    assert Found.model_validate_json(one.model_dump_json()) == one
