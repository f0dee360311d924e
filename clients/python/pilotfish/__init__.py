"""Pilotfish, test-time guided search for LLM agents: types, SDK and command line."""

from pilotfish.messages import Message
from pilotfish.task import Evaluation, Task
from pilotfish.trajectory import Candidate, Decision, Observation, Step, Trajectory, Usage

__version__ = "0.1.0"

__all__ = [
    "Candidate",
    "Decision",
    "Evaluation",
    "Message",
    "Observation",
    "Step",
    "Task",
    "Trajectory",
    "Usage",
    "__version__",
]
