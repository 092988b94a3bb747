"""What Prometheus is told: the numbers in the products' reports, by names that last."""
