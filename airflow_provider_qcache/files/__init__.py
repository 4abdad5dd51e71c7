"""Files as tables: which ones a path names, what they hold, and what a client stores of them.

Nothing here imports Airflow: a path is a pathlib.Path, or an object that knows its fsspec storage.
"""
