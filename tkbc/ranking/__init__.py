"""Filtered ranking and the answers to single questions."""
