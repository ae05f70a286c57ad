"""From a workload to bytes: the trainer's own step without numbers, its ledger, and what memory serves it."""
