"""Modules of winchester under other names; `eventproc.compat.winchester.install` gives them theirs."""
