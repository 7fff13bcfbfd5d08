"""Numbers of a model command's outcome."""

from __future__ import annotations

SUCCESS = 0
ERR = 1
ERR_MODEL_ALREADY_EXISTS = 2
ERR_NO_SUCH_MODEL = 3
ERR_INVALID_ARG = 4
