"""Guided runs of tasks: their state in Redis, and the workers that execute them."""
