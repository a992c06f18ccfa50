"""How good the body of a model is for tasks: probing and fine-tuning."""
