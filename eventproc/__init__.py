"""eventproc runs people's own Python when something happens, safely, and tells them how it went."""

__version__ = "0.1.0"
