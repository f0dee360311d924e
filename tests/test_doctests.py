"""What docstrings show is what happens."""

import doctest
import importlib
import pkgutil

import pytest

PACKAGES = ("critic", "search", "service", "pilotfish")
ADAPTERS = "pilotfish.adapters."
"""Each needs its scaffold, with which tests/e2e/test_integrations.py runs it."""
MODULES = [
    found.name
    for package in PACKAGES
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    if not found.name.endswith("__main__") and not found.name.startswith(ADAPTERS)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_some():
    finder = doctest.DocTestFinder(exclude_empty=True)
    with_examples = [
        name
        for name in MODULES
        if any(t.examples for t in finder.find(importlib.import_module(name)))
    ]
    assert {"critic.targets", "critic.logits", "search.selection"} <= set(with_examples)
