"""The kernel's layers around a handler: namespaces, private root, identity, Landlock, seccomp."""
