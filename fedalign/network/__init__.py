"""The only place that runs a network: its flat layout, and one or many models at a time."""
