"""Guided search: lookahead within a trajectory, selection across trajectories, both under a budget.

Knows nothing of HTTP, Redis, vLLM or torch: it works over the contracts in ``contracts.py``.
"""
