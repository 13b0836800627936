"""Keyhall: your community's API keys, usable by everyone, visible to no one."""

__version__ = "0.1.0"
