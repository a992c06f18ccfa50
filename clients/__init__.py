"""The client's half of an algorithm: local training on stacked flat parameters, under a mask."""
