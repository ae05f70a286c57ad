"""The memory planner: what a training run will allocate, to the byte, before it runs."""
