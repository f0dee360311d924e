"""Critics behind search's contract."""
