"""The critic: rendering, targets, model, training, evaluation, scoring in process.

Knows nothing of HTTP, Redis or sandboxes.
"""
