"""Start of the zygote by path: `python -I zygote.py FD`. Puts this directory up as a package of a private name."""

import sys
import types
from pathlib import Path

PACKAGE = "_eventproc_child"


def boot() -> None:
    """Import the server as part of a package that exists for this process only, and serve."""
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(Path(__file__).resolve().parent)]
    sys.modules[PACKAGE] = package
    sys.modules["__main__"] = types.ModuleType("__main__")  # handlers find a main module with nothing of ours in it
    __import__(f"{PACKAGE}.forking", fromlist=["keep"]).keep()  # before anything asks for something to be done in forks
    server = __import__(f"{PACKAGE}.server", fromlist=["main"])
    server.main()


if __name__ == "__main__":
    boot()
