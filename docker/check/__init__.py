"""What can be known of this folder without a Docker engine; `make deploy-check` runs all of it."""
