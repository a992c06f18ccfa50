"""Fusions: every way to make one model of several."""
