"""Orders of the worker to zygote and monitors: a JSON object, with file descriptors."""

from __future__ import annotations

import array
import json
import socket
import struct
from typing import Any, Dict, List, Optional, Tuple

ORDER_BYTES = 1 << 16
MAX_FDS = 4


def receive(control: socket.socket) -> Tuple[Optional[Dict[str, Any]], List[int]]:
    """Receive one order and its file descriptors, None at the end; (socket.recv_fds exists from Python 3.9 on)."""
    space = socket.CMSG_SPACE(MAX_FDS * struct.calcsize("i"))
    data, ancillary, _, _ = control.recvmsg(ORDER_BYTES, space)
    fds: "array.array[int]" = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if not data:
        return None, []
    return json.loads(data), list(fds)
