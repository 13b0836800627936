"""The pages of credentials: the list, adding one, and one of them with everything that is done with it."""
