"""Which weights are fixed, and when; fixed weights stay exactly where they are."""
