"""Benchmarks: each file measures one thing and asserts nothing."""
