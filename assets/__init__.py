"""Dagster assets and asset checks, one module a stage, in the order of the flow. Bodies are a few lines: what flows in, what out."""
