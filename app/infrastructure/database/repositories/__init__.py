"""The repositories of one unit of work, a file per family."""
