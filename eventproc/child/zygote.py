"""Start of the zygote by path: `python -I zygote.py FD`. Puts this directory up as a package of a private name."""

import os
import sys
import types

PACKAGE = "_eventproc_child"


def boot() -> None:
    """Import the server as part of a package that exists for this process only, and serve."""
    package = types.ModuleType(PACKAGE)
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules[PACKAGE] = package
    sys.modules["__main__"] = types.ModuleType("__main__")  # handlers find a main module with nothing of ours in it
    server = __import__(f"{PACKAGE}.server", fromlist=["main"])
    server.main()


if __name__ == "__main__":
    boot()
