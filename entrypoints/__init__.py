"""Entrypoints: they compose and run the application, nothing else."""
