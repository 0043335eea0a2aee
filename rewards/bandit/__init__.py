"""Bandit policies: pure arithmetic on arrays, one policy a module."""
