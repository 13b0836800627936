"""The fourth edge: what nobody asked for at this moment."""
