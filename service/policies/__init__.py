"""Policies behind search's contract."""
