"""Ports made real: databases, cryptography, passwords, files, logs and clocks."""
