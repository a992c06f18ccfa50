"""What server and clients derive from a configuration, so that it need not be sent."""
