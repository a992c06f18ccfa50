"""What is said about configurations, parts and finished runs."""
