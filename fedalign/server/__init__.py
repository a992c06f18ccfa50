"""The round loop, who takes part, and what is done with each round."""
