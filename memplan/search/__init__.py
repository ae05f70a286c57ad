"""Choosing sizes: the cost model, the search for a plan, and plans side by side."""
