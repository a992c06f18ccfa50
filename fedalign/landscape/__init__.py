"""The loss landscape between models: paths, curves and barriers."""
