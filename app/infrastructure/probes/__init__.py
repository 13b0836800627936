"""Looks at the machine, its files and the database for `keyhall doctor`: each probe reads and changes nothing."""
