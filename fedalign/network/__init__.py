"""The one place that runs a network: its flat layout, and stacks of models."""
