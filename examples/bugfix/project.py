"""A small correct project put together from pieces; knows nothing of bugs or tasks."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from examples.bugfix.families import Scope
from examples.bugfix.pieces import PIECES, Draw, Part, Piece
from examples.bugfix.vocabulary import DOMAINS

LINES_LEAST, LINES_MOST = 20, 80


@dataclass(frozen=True)
class Project:
    """Modules with the pieces they hold; the first piece is the one a bug goes into."""

    files: dict[str, str]
    pieces: tuple[Piece, ...]

    @property
    def target(self) -> Piece:
        return self.pieces[0]

    def module_of(self, name: str) -> str:
        """The module that defines a name."""
        pattern = re.compile(rf"^(def {name}\(|class {name}:|{name} = )", re.MULTILINE)
        return next(path[:-3] for path, text in self.files.items() if pattern.search(text))


@dataclass(frozen=True)
class Line:
    """One line of code with what surrounds it."""

    path: str
    number: int
    text: str
    scope: Scope
    owner: str


def draw_project(rng: Random, target: int | None = None) -> Project:
    """Draw a project; `target` may fix the kind of its first piece."""
    domain = rng.choice(DOMAINS)
    d = Draw(rng, domain)
    kinds = list(range(len(PIECES)))
    first = rng.choice(kinds) if target is None else target
    others = rng.sample([kind for kind in kinds if kind != first], 8)
    wanted = rng.randint(LINES_LEAST, 34)
    pieces: list[Piece] = []
    length = 0
    for kind in (first, *others):
        piece = PIECES[kind](d)
        pieces.append(piece)
        length += sum(part.source.count("\n") + 3 for part in piece.parts)
        if length >= wanted and len(pieces) > 1:
            break
    modules = rng.sample(domain.modules, rng.choice([1, 1, 2, 2, 3]))
    return Project(_lay_out(rng, modules, pieces), tuple(pieces))


def _lay_out(rng: Random, modules: list[str], pieces: list[Piece]) -> dict[str, str]:
    """Give every part a module; a part may import only from modules before its own."""
    content: list[list[Part]] = [[] for _ in modules]
    home: dict[str, int] = {}
    for piece in rng.sample(pieces, len(pieces)):
        places = sorted(rng.randrange(len(modules)) for _ in piece.parts)
        if rng.random() < 0.5:
            places = [places[-1]] * len(places)
        for part, place in zip(piece.parts, places, strict=True):
            content[place].append(part)
            home[part.name] = place
    files = {}
    for place, parts in enumerate(content):
        if parts:
            files[f"{modules[place]}.py"] = _module_text(modules, home, place, parts)
    return files


def _module_text(modules: list[str], home: dict[str, int], place: int, parts: list[Part]) -> str:
    body = [part.source for part in sorted(parts, key=lambda part: not part.name.isupper())]
    used = {
        name
        for name, at in home.items()
        if at != place and any(re.search(rf"\b{name}\b", text) for text in body)
    }
    imports = []
    for other in range(place):
        names = sorted(name for name in used if home[name] == other)
        if names:
            imports.append(f"from {modules[other]} import {', '.join(names)}")
    head = ["\n".join(imports)] if imports else []
    return "\n\n".join(head + body).rstrip("\n") + "\n"


def lines_of(files: dict[str, str], owners: set[str] | None = None) -> Iterator[Line]:
    """The code lines of top-level definitions, all or those of the owners named."""
    for path, text in files.items():
        rows = text.split("\n")
        keys = tuple(dict.fromkeys(re.findall(r"\[\"(\w+)\"\]", text)))
        for node in ast.parse(text).body:
            name = _defined(node)
            if name is None or (owners is not None and name not in owners):
                continue
            skipped = _docstring_lines(node)
            for number, scope in _scopes(node, rows, keys):
                row = rows[number - 1]
                if row.strip() and number not in skipped:
                    yield Line(path, number, row, scope, name)


def _defined(node: ast.stmt) -> str | None:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return None


def _docstring_lines(node: ast.stmt) -> set[int]:
    found = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(inner):
            found.add(inner.body[0].lineno)
    return found


def _last(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


def _scopes(node: ast.stmt, rows: list[str], keys: tuple[str, ...]) -> Iterator[tuple[int, Scope]]:
    """Each line of a definition with the names and keys that could stand there by mistake."""
    segment = "\n".join(rows[node.lineno - 1 : _last(node)])
    attributes = tuple(dict.fromkeys(re.findall(r"self\.(\w+)(?!\w|\()", segment)))
    functions = [inner for inner in ast.walk(node) if isinstance(inner, ast.FunctionDef)]
    known = [(function, *_names_and_loops(function)) for function in functions]
    for number in range(node.lineno, _last(node) + 1):
        around = [item for item in known if item[0].lineno <= number <= _last(item[0])]
        names, loops = around[-1][1:] if around else _names_and_loops(node)
        yield number, Scope(names, keys, attributes, any(loop < number for loop in loops))


def _names_and_loops(node: ast.stmt) -> tuple[tuple[str, ...], list[int]]:
    """The names that a function binds, arguments first, and the lines of its loops."""
    inside = list(ast.walk(node))
    names = [inner.arg for inner in inside if isinstance(inner, ast.arg)]
    names += [
        inner.id
        for inner in inside
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
    ]
    loops = [inner.lineno for inner in inside if isinstance(inner, ast.For)]
    return tuple(name for name in dict.fromkeys(names) if name not in ("self", "_")), loops
