"""The bug families: each changes one line of code in one way; knows nothing of tasks."""

from examples.bugfix.families import arithmetic, comparison, naming, position, state, text
from examples.bugfix.families.family import Family, Scope

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *comparison.FAMILIES,
        *arithmetic.FAMILIES,
        *position.FAMILIES,
        *text.FAMILIES,
        *state.FAMILIES,
        *naming.FAMILIES,
    )
}

__all__ = ["FAMILIES", "Family", "Scope"]
