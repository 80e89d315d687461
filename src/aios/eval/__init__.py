"""Evaluation: tasks to run, and how to judge them. Knows the SDK and the kernel's door, no server."""
