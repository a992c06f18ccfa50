"""A round of clients at work."""
