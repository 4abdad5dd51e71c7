"""Benchmarks, one per module: its docstring says what it compares; `run(runs)` returns a Markdown report."""
