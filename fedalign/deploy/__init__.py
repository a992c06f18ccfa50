"""The same app on real machines: certificates, keys, submitting runs, all of it on loopback."""
