"""What all ways out of a sandbox to a task's hosts share: settings, and what tells programs inside
of the proxy. Knows nothing of how the proxy (``egress.py``) comes to be beside a sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from service.sandboxes.guest import PROXY_PORT

EGRESS = Path(__file__).with_name("egress.py")
PROXY = f"http://127.0.0.1:{PROXY_PORT}"
OWN = "localhost,127.0.0.1,::1"
VARIABLES = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), PROXY),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), OWN),
}
"""By what most programs find a proxy."""


class WayOutSettings(BaseModel):
    egress_private: list[str] = Field(default_factory=list)
    """Hosts, as tasks name them in ``allow_hosts`` but without a port, whose addresses need not be
    public ones: a mirror of your own, say."""
    egress_connections: int = Field(default=64, ge=1)
    """Connections to a task's hosts at once."""
    egress_bytes: int = Field(default=2**31, ge=1)
    """Bytes that a sandbox may send to its hosts and receive together."""
    egress_idle: float = Field(default=120.0, gt=0)
    """Seconds after which a connection on which nothing moves is closed."""

    def proxy(self, hosts: Sequence[str], user: int | None) -> dict[str, Any]:
        """What ``egress.py`` is told; ``user`` is whom it becomes, if it is root."""
        return {
            "allow": hosts,
            "private": self.egress_private,
            "connections": self.egress_connections,
            "transfer": self.egress_bytes,
            "idle": self.egress_idle,
            "user": user,
        }
