"""A training run and its folder: loop, settings, state, checkpoints, recovery."""
