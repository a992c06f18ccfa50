"""The settings of a run, and the parts that they name."""
