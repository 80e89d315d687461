"""The proof of the first promise: interrupted in every way there is, a generation says what it says alone."""

from .prove import Difference, Found, prove

__all__ = ["Difference", "Found", "prove"]
