"""Backup files: an age file (age.py) around an archive of JSON lines (archive.py)."""
