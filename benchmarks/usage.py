"""What a process uses of memory and CPU, as the kernel tells. Knows nothing of what it does."""

from __future__ import annotations

import os
from pathlib import Path


def rss(pid: int) -> int:
    """Bytes that it has in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def cpu(pid: int) -> float:
    """Seconds of CPU that it has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
