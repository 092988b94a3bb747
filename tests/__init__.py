"""What clinfra promises, as tests."""
