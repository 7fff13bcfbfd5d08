"""
Anomaly models of metrics: how they are specified, their life, and the worker that scores samples with them.

`specs` reads model specifications, `scorer` turns values into scores, `lifecycle` moves a metric from state to state
inside a transaction, `runner` is the role's loop, `shards` shares the metrics out between workers.
"""
