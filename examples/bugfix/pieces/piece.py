"""A piece of a project: correct code with the calls that show what it does; knows no bugs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from textwrap import dedent

from examples.bugfix.vocabulary import Domain

Value = object


def literal(value: Value) -> str:
    """Write a value as Python source with double quotes.

    >>> literal([{"a": "x"}, (1, None)])
    '[{"a": "x"}, (1, None)]'
    """
    if isinstance(value, str):
        return '"' + value + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, tuple):
        inside = ", ".join(map(literal, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return repr(value)


@dataclass(frozen=True)
class Case:
    """One use of a piece: statements, then the expression whose value counts."""

    expression: str
    setup: str = ""


@dataclass(frozen=True)
class Part:
    """One top-level definition of a module."""

    name: str
    source: str


@dataclass(frozen=True)
class Piece:
    """Definitions that belong together; the last one is what callers use."""

    parts: tuple[Part, ...]
    title: str
    purpose: str
    case: Callable[[Random], Case]

    @property
    def entry(self) -> str:
        return self.parts[-1].name


@dataclass
class Draw:
    """The random choices of one project."""

    rng: Random
    domain: Domain
    taken: set[str] = field(default_factory=set)

    def pick(self, *options: str) -> str:
        return self.rng.choice(options)

    def maybe(self, text: str, share: float = 0.5) -> str:
        return text if self.rng.random() < share else ""

    def name(self, *options: str) -> str:
        """A top-level name that this project does not have yet."""
        free = [option for option in options if option not in self.taken]
        chosen = self.rng.choice(free) if free else f"{options[0]}_{len(self.taken)}"
        self.taken.add(chosen)
        return chosen

    def fields(self, count: int) -> list[str]:
        return self.rng.sample(self.domain.numbers, count)

    def function(
        self, name: str, arguments: str, body: str, doc: str = "", keep_doc: bool = False
    ) -> Part:
        """A function; its docstring is left out half of the time unless it is needed."""
        shown = keep_doc or self.rng.random() < 0.4
        lines = [f"def {name}({arguments}):"]
        if doc and shown:
            lines.append(f'    """{doc}"""')
        lines += ["    " + line if line else "" for line in dedent(body).strip("\n").split("\n")]
        return Part(name, "\n".join(lines))

    def single(
        self,
        name: str,
        arguments: str,
        body: str,
        purpose: str,
        sample: Callable[[Random], tuple[Value, ...]],
        keep_doc: bool = False,
    ) -> Piece:
        """A piece of one function whose arguments come from `sample`."""
        doc = purpose[0].upper() + purpose[1:] + "."
        part = self.function(name, arguments, body, doc, keep_doc)
        return Piece((part,), name, purpose, calls(name, sample))


def calls(name: str, sample: Callable[[Random], tuple[Value, ...]]) -> Callable[[Random], Case]:
    """Cases that call one function."""

    def case(rng: Random) -> Case:
        return Case(f"{name}({', '.join(map(literal, sample(rng)))})")

    return case


def numbers(rng: Random, low: int = 2, high: int = 5, top: int = 12, least: int = 1) -> list[int]:
    return [rng.randint(least, top) for _ in range(rng.randint(low, high))]
