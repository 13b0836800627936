"""The pages of administration, each for the roles that its services admit."""
