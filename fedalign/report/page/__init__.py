"""The page of runs: one HTML file with their tables, curves and settings."""
