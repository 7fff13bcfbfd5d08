"""Metrics: listeners, what they take in, and queries."""
