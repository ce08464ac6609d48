"""What users of a GPU ask for first, measured on one: run it with ``python -m benchmarks.gpu``."""
