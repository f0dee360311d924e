"""The form of a project that is left after renaming; knows nothing of tasks or bugs.

Two projects are the same up to renaming when their canonical forms are equal. Each top-level
definition is taken alone: identifiers, attributes and word-like strings become numbers in order
of appearance, docstrings and imports go, other constants stay. The forms are sorted, so neither
the order of definitions nor their distribution over modules matters.
"""

import ast
import builtins
import hashlib
import keyword
from collections.abc import Mapping

_KEPT = frozenset(dir(builtins)) | frozenset(
    name for kind in (str, list, dict, set) for name in dir(kind)
)


class _Renamer(ast.NodeVisitor):
    """Rewrites names in place, in order of appearance."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def rename(self, name: str) -> str:
        if name in _KEPT or name.startswith("__"):
            return name
        return self.names.setdefault(name, f"n{len(self.names)}")

    def generic_visit(self, node: ast.AST) -> None:
        for field in ("name", "id", "attr", "arg"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                setattr(node, field, self.rename(value))
        if isinstance(node, ast.Constant) and _is_name(node.value):
            node.value = self.rename(str(node.value))
        super().generic_visit(node)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier() and not keyword.iskeyword(value)


def _without_docstring(node: ast.AST) -> None:
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(inner):
            inner.body = inner.body[1:] or [ast.Pass()]


def canonical_form(files: Mapping[str, str]) -> str:
    """The project's code with every name replaced, as text.

    >>> a = canonical_form({"m.py": "def f(x):\\n    return x + 1"})
    >>> b = canonical_form({"k.py": "def g(y):\\n    'Add.'\\n    return y + 1"})
    >>> a == b
    True
    """
    forms = []
    for text in files.values():
        for node in ast.parse(text).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                continue
            _without_docstring(node)
            _Renamer().visit(node)
            forms.append(ast.dump(node))
    return "\n".join(sorted(forms))


def digest(files: Mapping[str, str]) -> int:
    """A number that depends on the canonical form alone."""
    return int.from_bytes(hashlib.sha256(canonical_form(files).encode()).digest()[:8], "big")
