"""What userland and the kernel both know: the table of calls, messages and errors. Imports nothing of ours."""
