"""Weights of others: found, read without running anything of theirs, and written again."""
