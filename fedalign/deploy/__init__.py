"""Run the same app on real machines: certificates, keys, submitting runs, and all on loopback."""
