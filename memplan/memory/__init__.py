"""From a workload to bytes: the ledger of its step, and the allocator that serves it."""
