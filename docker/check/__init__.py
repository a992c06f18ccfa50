"""Checks of this folder that need no Docker engine; `make deploy-check` runs them all."""
