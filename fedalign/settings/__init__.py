"""All that a run may be told, and the parts it is made of."""
