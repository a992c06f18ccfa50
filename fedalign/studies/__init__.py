"""Studies: many runs that are compared with one another."""
