"""A family of small bug-fixing tasks with a demonstrator and a policy; knows no server."""

SYSTEM_PROMPT = (
    "You fix a bug in the Python project in /workspace. "
    "Each turn: one bash command in a fenced block. When done, run submit."
)
