"""One script a question; see README.md. Run one with `python -m benchmarks.NAME` from the repository."""
