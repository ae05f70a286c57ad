"""The trainer for temporal knowledge-graph embeddings; takes a plan from memplan."""
