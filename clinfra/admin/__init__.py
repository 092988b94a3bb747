"""The operator's side: health, status and purge."""
