"""The kernel. This is its door: what a gateway, an SDK in the same program, or a test may use."""
