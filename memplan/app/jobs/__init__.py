"""What a command does that takes time: train, resume, use a model, download, trace."""
