"""Making pages: templates in, HTML out that nothing in it can break out of."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import Response

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Controls, and what turns the direction of the text around it; new line, tab and marks of one letter's direction stay.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CODE = re.compile(r"`([^`]+)`")


def plain(text: object) -> str:
    r"""Make text from handlers and events readable: controls become visible (`\x1b`), line ends become new lines."""
    unified = str(text).replace("\r\n", "\n").replace("\r", "\n")
    return _UNSAFE.sub(lambda match: _visible(ord(match[0])), unified)


def _visible(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def ticks(text: str) -> Markup:
    """Mark up what stands between backticks as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped, and the rest is ours


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("eventproc.api"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"plain": plain, "ticks": ticks}
    return made


def page(
    request: Request, template: str, *, status: int = 200, headers: dict[str, str] | None = None, **facts: Any
) -> Response:
    """Answer with a template; its links are relative, so that they hold below a proxy's path, too."""
    path: bytes = request.scope.get("raw_path") or request.url.path.encode()
    text = _templates().get_template(template).render(root="../" * (path.count(b"/") - 1), **facts)
    answer = Response(text, status_code=status, media_type="text/html", headers=headers)
    answer.headers["Content-Security-Policy"] = POLICY
    return answer


def wanted(request: Request) -> bool:
    """Tell whether a person with a browser asks, and not a program that is used to JSON."""
    of_api = request.url.path.startswith("/api/")  # whose good answers are JSON as well
    return request.method == "GET" and not of_api and "text/html" in request.headers.get("accept", "")
