"""Pilotfish, test-time guided search for LLM agents: types, SDK and command line."""

from pilotfish.client import AsyncPilotfish, Pilotfish
from pilotfish.errors import PilotfishError
from pilotfish.messages import Message
from pilotfish.strategy import (
    BudgetLimits,
    Lookahead,
    RolloutSettings,
    Sampling,
    Selection,
    Strategy,
)
from pilotfish.task import Check, Evaluation, Task
from pilotfish.trajectory import Candidate, Decision, Observation, Step, Trajectory, Usage

__version__ = "0.1.0"

__all__ = [
    "AsyncPilotfish",
    "BudgetLimits",
    "Candidate",
    "Check",
    "Decision",
    "Evaluation",
    "Lookahead",
    "Message",
    "Observation",
    "Pilotfish",
    "PilotfishError",
    "RolloutSettings",
    "Sampling",
    "Selection",
    "Step",
    "Strategy",
    "Task",
    "Trajectory",
    "Usage",
    "__version__",
]
