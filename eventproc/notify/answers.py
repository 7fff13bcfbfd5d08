"""Asking a server that may be slow, endless or odd: its answer is bounded in time and size."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Final, cast

import httpx

_BODY_S: Final = 2.0


async def ask(
    client: httpx.AsyncClient, request: httpx.Request, *, within_s: float, most: int
) -> tuple[httpx.Response, bytes]:
    """
    Send a request; return the head of its answer, and what came of its body in a few seconds, `most` bytes at most.

    The body is as it was sent: neither the encoding nor the charset that the answer names is looked at. Once the head
    is there the answer counts, whatever becomes of the rest. Raises TimeoutError when it is not there after `within_s`
    in all (httpx's own time limits are for each piece that arrives), httpx.HTTPError.
    """
    async with asyncio.timeout(within_s):
        answer = await client.send(request, stream=True)
    body = bytearray()
    with contextlib.suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(_BODY_S):
            async with contextlib.aclosing(cast("AsyncGenerator[bytes, None]", answer.aiter_raw())) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) >= most:
                        break
            await answer.aclose()
    return answer, bytes(body[:most])


__all__ = ["ask"]
