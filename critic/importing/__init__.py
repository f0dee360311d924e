"""Other people's trajectories, made into our record. Knows nothing of tokens or networks."""
