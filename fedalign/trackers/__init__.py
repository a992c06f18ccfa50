"""Runs shown elsewhere while they go on: TensorBoard, MLflow, W&B, or a tracker of your own."""
