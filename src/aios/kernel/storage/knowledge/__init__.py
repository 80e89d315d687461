"""Files as knowledge: read, split into passages, found again."""
