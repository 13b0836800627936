"""Compose and run, nothing else: each module here is a way into the house."""
