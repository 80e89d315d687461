"""What the commands that crash kernels share: a kernel to be killed, a load, what it promised, faults of its disk."""
