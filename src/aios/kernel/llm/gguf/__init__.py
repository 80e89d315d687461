"""A core that is a llama.cpp server in a process of its own, for models in GGUF files."""
