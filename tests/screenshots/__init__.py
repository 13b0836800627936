"""The pictures of the documentation, taken of a furnished site: `make screenshots`."""
