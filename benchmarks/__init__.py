"""Benchmarks, a module each: its docstring says what it compares, `run(runs)` does and returns Markdown."""
