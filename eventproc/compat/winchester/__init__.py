"""For users of winchester: its configuration files, its class names, and playing a day of notifications back."""
