"""The device of a run: what is here, what it may take, how fast it is."""
