"""What a finished run is good for: answers, neighbours, export."""
