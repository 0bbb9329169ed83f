"""What a walk is: its settings, its path and its pacing. Pure: no I/O."""
