"""What the ablation's section says is what was measured."""

from critic.ablation import BASE, compare
from examples.bugfix.ablation import verdict
from tests.critic.test_ablation import found


def test_what_differs_from_the_base_is_named():
    alike = [found(factor, value, 0, 5) for factor, value in ((BASE, ""), ("lam", "1"))]
    assert verdict(compare(alike, draws=50)).startswith("None of the 2 differences")
    better = found("lam", "0.5", 0, 12)
    told = verdict(compare([*alike, better], draws=50))
    assert told.startswith("Of 4 differences")
    assert "lam = 0.5 at N=10, 35.0 (" in told
    assert "lam = 1 " not in told
