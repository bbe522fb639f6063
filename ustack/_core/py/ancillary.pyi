"""Internal: no public names."""
