"""What really happened: memory by phase, and how fast a device is."""
