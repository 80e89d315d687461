"""Cores that are somebody else's servers. `openai` and `anthropic` are kinds; the rest is what they share."""
