"""When two patches are one answer. Knows nothing of who made them, nor applies any."""

from __future__ import annotations

import re

_FILE = re.compile(r"^diff --git ", re.MULTILINE)
_HUNK = re.compile(r"^@@ -\d+(?:,\d+)? \+\d+(?:,\d+)? @@.*$")
_NOISE = ("index ", "similarity index ", "dissimilarity index ")


def cleaned(patch: str) -> str:
    """The patch without what does not change what it does: object names, the context behind hunk
    headers, white space at line ends, empty lines at its end, the order of its files. Text that is
    no diff keeps its lines.

    >>> one = "diff --git a/x b/x\\nindex 1..2 100644\\n@@ -1 +1 @@ def f():\\n-a  \\n+b\\n"
    >>> other = "diff --git a/x b/x\\nindex 3..4 100644\\n@@ -1 +1 @@\\n-a\\n+b\\n\\n"
    >>> cleaned(one) == cleaned(other)
    True
    """
    files = _FILE.split(patch.replace("\r\n", "\n"))
    head, changes = files[0], sorted(_clean_file(text) for text in files[1:])
    return "\n".join(part for part in (_trim(head), *changes) if part)


def _clean_file(text: str) -> str:
    kept = []
    for line in text.split("\n"):
        if line.startswith(_NOISE):
            continue
        if _HUNK.match(line):
            line = line[: line.index("@@", 2) + 2]
        kept.append(line)
    return "diff --git " + _trim("\n".join(kept))


def _trim(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")
