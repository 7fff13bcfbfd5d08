"""
Handlers that try to get out. Each returns what it achieved: "contained ..." or "ESCAPED ...".

`python -m attacks` (as the tests run it, as root and as an ordinary user) lets them all loose in one sandbox, and
prints what became of each as JSON.
"""

from attacks import answers, files, kernel, network, processes, resources
from attacks.collecting import ATTACKS, LIMITS, by_value

__all__ = ["ATTACKS", "LIMITS", "answers", "by_value", "files", "kernel", "network", "processes", "resources"]
