"""Datasources."""
