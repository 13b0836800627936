"""Keyhall's own commands, a cog per topic."""
