"""The ledger of any PyTorch training step, written while the step runs on tensors without numbers."""
