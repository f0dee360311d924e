"""The words of an issue: what is wrong, shown by one example; knows nothing of the bug itself."""

from dataclasses import dataclass
from random import Random

from examples.bugfix.pieces import Case


@dataclass(frozen=True)
class Symptom:
    """What a user sees: a case, what it gives and what it should give."""

    module: str
    title: str
    purpose: str
    case: Case
    actual: str
    expected: str

    @property
    def failed(self) -> bool:
        """Whether the case raises instead of giving a value."""
        return ": " in self.actual and self.actual.split(":")[0].endswith("Error")


_OPENINGS = (
    "`{title}` in {module}.py is wrong.",
    "Bug in `{title}` ({module}.py).",
    "`{title}` does not work.",
    "`{title}` gives wrong results: it should give {purpose}.",
    "{module}.py: `{title}` should give {purpose}.",
    "I expect `{title}` to give {purpose}, but it does not.",
    "Wrong result from `{title}`.",
    "There is a mistake somewhere behind `{title}`.",
    "We rely on `{title}` for {purpose}. It is broken.",
    "Please fix `{title}`.",
)
_BOTH = (
    "{call} gives `{actual}`, should be `{expected}`.",
    "{call} returns `{actual}` instead of `{expected}`.",
    "For {call} I get `{actual}`. Expected: `{expected}`.",
    "Expected `{expected}` from {call}, got `{actual}`.",
    "{call}: `{expected}` expected, `{actual}` found.",
)
_EXPECTED_ONLY = (
    "{call} should be `{expected}`.",
    "Expected `{expected}` from {call}.",
    "For example {call} must give `{expected}`.",
)
_RAISES = (
    "{call} raises {kind}, should be `{expected}`.",
    "Expected `{expected}` from {call}, but it raises {kind}.",
    "{call} fails with {kind} instead of giving `{expected}`.",
)


def call_text(case: Case) -> str:
    """The case as an issue writes it."""
    if case.setup:
        return f"`{case.setup}; {case.expression}`"
    return f"`{case.expression}`"


def statement(rng: Random, symptom: Symptom) -> str:
    """The text of an issue."""
    opening = rng.choice(_OPENINGS).format(
        title=symptom.title, module=symptom.module, purpose=symptom.purpose
    )
    if symptom.failed:
        body = rng.choice(_RAISES)
    elif rng.random() < 0.2:
        body = rng.choice(_EXPECTED_ONLY)
    else:
        body = rng.choice(_BOTH)
    shown = body.format(
        call=call_text(symptom.case),
        actual=symptom.actual,
        expected=symptom.expected,
        kind=symptom.actual.split(":")[0],
    )
    return f"{opening} {shown}"
