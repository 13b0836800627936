"""The pages: plain forms that work without scripts, rendered from view models."""
