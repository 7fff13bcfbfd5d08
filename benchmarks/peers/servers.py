"""The servers that the benchmarks need, as far as they are installed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from peers.postgresql import postgresql
from peers.rabbitmq import ServerMissing, rabbitmq


@contextlib.contextmanager
def servers(*, peers: bool) -> Iterator[tuple[str | None, str | None]]:
    """Start PostgreSQL, and RabbitMQ for the peers; yields their URLs, None for one that is not installed."""
    with contextlib.ExitStack() as stack:
        urls: list[str | None] = []
        for wanted, start in ((True, postgresql), (peers, rabbitmq)):
            url = None
            if wanted:
                try:
                    url = stack.enter_context(start())
                except ServerMissing as missing:
                    print(f"left out: {missing}", file=sys.stderr)
            urls.append(url)
        yield urls[0], urls[1]
