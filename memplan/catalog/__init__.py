"""What is known beforehand: datasets, GPUs, recipes, each with its source."""
