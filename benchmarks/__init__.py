"""Benchmarks, one per module: its docstring says what it compares, `run(runs)` returns a report in Markdown."""
