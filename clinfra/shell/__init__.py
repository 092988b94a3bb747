"""What operators type about a clinfra that runs, or should: see `command_line`."""
