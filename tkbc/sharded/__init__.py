"""The entity table's rows split over processes: each owns some, and what all must know is summed over them."""

from tkbc.sharded.processes import Processes

__all__ = ["Processes"]
