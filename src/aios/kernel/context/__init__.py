"""The context manager: what a generation under way is, and what of a conversation fits a model's window."""

from .window_fit import Windows

__all__ = ["Windows"]
