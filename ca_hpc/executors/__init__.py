"""Executors: where stages run. Two modules with the same few functions, chosen by name."""
