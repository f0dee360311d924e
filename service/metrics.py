"""Prometheus metrics, all of them. Counting HTTP sits in one middleware, never in handlers."""

from __future__ import annotations

import time

from prometheus_client import Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pilotfish import Decision

REQUESTS = Counter("pilotfish_http_requests_total", "HTTP answers", ["method", "route", "status"])
SECONDS = Histogram(
    "pilotfish_http_seconds",
    "Seconds from the request to the last byte of its answer",
    ["route"],
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600),
)
DECISIONS = Counter(
    "pilotfish_decisions_total", "Guided steps that were decided", ["reason", "degraded"]
)
CANDIDATES = Counter("pilotfish_candidates_total", "Candidates that the policy gave")
STEP_SECONDS = Histogram(
    "pilotfish_decision_seconds",
    "Seconds of a decision, by stage",
    ["stage"],
    buckets=(0.01, 0.05, 0.2, 0.5, 1, 2, 5, 20, 60, 600),
)
TOKENS = Counter("pilotfish_tokens_total", "Tokens of the policy", ["kind"])
RUNS = Counter("pilotfish_runs_total", "Runs by what became of them", ["status"])
REAPED = Counter(
    "pilotfish_sandboxes_reaped_total", "Sandboxes removed whose run was over", ["backend"]
)
ADMISSION_SECONDS = Histogram(
    "pilotfish_admission_seconds",
    "Seconds that a sandbox waited for room, by what for",
    ["backend", "kind"],
    buckets=(0.01, 0.1, 1, 10, 60, 600),
)
TRAJECTORIES = Counter("pilotfish_trajectories_total", "Trajectories ended", ["exit_status"])
FAILED_Q = Gauge(
    "pilotfish_failed_q",
    "Mean Q at the last turn of the latest failures",
    ["critic", "lookahead"],
)
VALUE_HACKING = Gauge(
    "pilotfish_value_hacking",
    "1 while failures look better under lookahead than without, by more than the margin",
    ["critic"],
)
UNDER_WAY = Gauge(
    "pilotfish_requests_under_way", "Requests of those that concurrent_requests bounds"
)


def count_decision(decision: Decision) -> None:
    """Count one guided step, wherever it was decided."""
    DECISIONS.labels(decision.reason, decision.degraded).inc()
    CANDIDATES.inc(sum(c.message is not None for c in decision.candidates))
    STEP_SECONDS.labels("policy").observe(decision.policy_seconds)
    STEP_SECONDS.labels("all").observe(decision.seconds)
    TOKENS.labels("prompt").inc(decision.usage.prompt_tokens)
    TOKENS.labels("completion").inc(decision.usage.completion_tokens)


class MetricsMiddleware:
    """Counts and times every HTTP answer by its route's pattern."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            REQUESTS.labels(scope["method"], route, status).inc()
            SECONDS.labels(route).observe(time.monotonic() - began)
