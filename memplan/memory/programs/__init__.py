"""What a run allocates, told as the trainer does it: one file for each part of the trainer."""
