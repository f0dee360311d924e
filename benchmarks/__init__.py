"""Measurements: each prints ratios taken in one run and keeps JSON. Nothing is asserted on time."""
