"""What tools/benchmark.py measures. Each module holds functions that yield rows."""
