"""The life of anomaly models: monitoring, scoring in worker processes, checkpoints."""
