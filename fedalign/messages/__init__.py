"""What travels between server and clients, and what the server makes of it."""
