"""What stands between the pairs file and the tables: data, runs, scores, records.

Only the standard library, NumPy, SciPy, pandas and anndata are imported here, and only in the forms
that old releases share, because the worker brings this package into every peer's environment.
"""
