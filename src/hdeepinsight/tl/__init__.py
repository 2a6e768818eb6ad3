"""Analyse annotations, ours or another tool's: refine, vote, combine, audit."""

__all__: list[str] = []
