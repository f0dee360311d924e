"""The top-level names are ours alone."""

from importlib.metadata import packages_distributions

import pytest


@pytest.mark.parametrize("name", ["service", "critic", "search", "pilotfish"])
def test_no_other_distribution_claims_our_names(name):
    owners = set(packages_distributions().get(name, []))
    assert owners <= {"pilotfish", "pilotfish-service"}
