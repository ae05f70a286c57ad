"""Operators that take nothing inside."""
QUIET: frozenset[str] = frozenset()
