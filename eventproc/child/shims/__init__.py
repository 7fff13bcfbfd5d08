"""Directories of packages that stand in for others inside a child; nothing here is imported unless it is asked for."""
