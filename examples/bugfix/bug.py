"""One wrong line in a project: how it is put in and what undoes it; knows nothing of tasks."""

from collections.abc import Iterator
from dataclasses import dataclass

from examples.bugfix.families import FAMILIES
from examples.bugfix.project import Line, lines_of


@dataclass(frozen=True)
class Edit:
    """One line replaced by another."""

    path: str
    number: int
    before: str
    after: str
    family: str
    owner: str

    def undone(self) -> "Edit":
        return Edit(self.path, self.number, self.after, self.before, self.family, self.owner)

    def apply(self, files: dict[str, str]) -> dict[str, str]:
        """The project with this line changed."""
        rows = files[self.path].split("\n")
        rows[self.number - 1] = self.after
        return {**files, self.path: "\n".join(rows)}


def edits_of_line(line: Line, families: tuple[str, ...] | None = None) -> Iterator[Edit]:
    """Every change of a line that some family makes."""
    seen = {line.text}
    for family in FAMILIES.values():
        if families is not None and family.name not in families:
            continue
        for text in family.rewrite(line.text, line.scope):
            if text not in seen:
                seen.add(text)
                yield Edit(line.path, line.number, line.text, text, family.name, line.owner)


def edits_of(
    files: dict[str, str], owners: set[str], families: tuple[str, ...] | None = None
) -> list[Edit]:
    """Every change of the definitions named that some family makes."""
    return [edit for line in lines_of(files, owners) for edit in edits_of_line(line, families)]
