"""REST under /api/v1, the probes, and the documentation of both."""
