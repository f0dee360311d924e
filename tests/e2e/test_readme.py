"""The README's examples, as they stand there, against the real stack."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "docs" / "integrations" / "own-loop.md",  # the others need their scaffolds
]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, block in enumerate(re.findall(FENCE, page.read_text()))
]


@pytest.mark.vllm
@pytest.mark.parametrize("block", BLOCKS)
def test_a_documented_example_runs(block: str, stack_url: str, tmp_path: Path) -> None:
    code = block.replace("http://127.0.0.1:8700", stack_url)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
