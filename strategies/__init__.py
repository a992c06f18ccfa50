"""The server's half of an algorithm: Flower strategies, and wrappers around any of them."""
