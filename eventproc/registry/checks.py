"""Checks of what users type: names, hooks, tags, ids, keys and mail addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from eventproc.errors import InvalidInput
from eventproc.model import MAX_ID_LENGTH, MAX_TAG_LENGTH, MAX_TAGS

MAX_NAME_LENGTH = 200  # characters, of handlers and hooks
MAX_KEY_LENGTH = 255
MAX_SOURCE_LENGTH = 255
MAX_ADDRESSES = 20
MAX_ADDRESS_LENGTH = 254  # RFC 5321
MAX_LOCAL_LENGTH = 64

# Control characters and line separators spoil logs, mails and terminals; lone surrogates can not be stored at all.
_BAD = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_HOOK = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.:/-]*[A-Za-z0-9_])?")
_HOOK_GLOB = re.compile(r"[A-Za-z0-9_*?\[](?:[A-Za-z0-9_.:/*?!\[\]-]*[A-Za-z0-9_*?\]])?")
_SECRET = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_TRACE_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def check_text(value: Any, what: str, *, max_length: int) -> str:
    """Return `value` if it is a text of 1 to `max_length` characters without control characters."""
    if not isinstance(value, str):
        raise InvalidInput(f"{what} must be a text, not {type(value).__name__}", field=what)
    if not value:
        raise InvalidInput(f"{what} is empty", field=what)
    if len(value) > max_length:
        raise InvalidInput(
            f"{what} has {len(value)} characters, the limit is {max_length}", field=what, limit=max_length
        )
    if found := _BAD.search(value):
        raise InvalidInput(f"{what} holds the character {found[0]!a} at position {found.start()}", field=what)
    return value


def storable(text: str) -> str:
    """Replace what a database can not hold as text: NUL and halves of characters."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def check_name(value: Any, what: str = "name") -> str:
    """Return a handler's, schedule's or user's name if it can be one."""
    text = check_text(value, what, max_length=MAX_NAME_LENGTH)
    if text != text.strip():
        raise InvalidInput(f"{what} {text!r} begins or ends with a blank", field=what)
    return text


def check_hook_name(value: Any, *, glob: bool = False) -> str:
    """Return a hook's name if it can be one; with `glob` it may hold wildcards."""
    text = check_text(value, "hook name", max_length=MAX_NAME_LENGTH)
    if not (_HOOK_GLOB if glob else _HOOK).fullmatch(text):
        rule = "letters, digits and _ with . : / - between them"
        raise InvalidInput(f"hook name {text!r}: use {rule}{', wildcards * ? [ab]' if glob else ''}", field="hook")
    return text


def check_secret_name(value: Any) -> str:
    """Return a secret's name if it can be one."""
    if not isinstance(value, str) or _SECRET.fullmatch(value) is None:
        # What is no name may be the secret itself, by mistake: it is not repeated.
        raise InvalidInput(
            "a secret's name has 1 to 100 letters, digits and _, and does not begin with a digit, as in API_TOKEN",
            field="secret",
        )
    return value


def check_tags(value: Any) -> tuple[str, ...]:
    """Return the tags, each once, in the order given."""
    if value is None:
        return ()
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InvalidInput(f"tags must be a list of texts, not {type(value).__name__}: write [{value!r}]", field="tags")
    tags = tuple(value)
    if len(tags) > MAX_TAGS:
        raise InvalidInput(f"{len(tags)} tags, the limit is {MAX_TAGS}", field="tags", limit=MAX_TAGS)
    for index, tag in enumerate(tags):
        # The first look is cheap: nearly all tags are short plain texts.
        if not (isinstance(tag, str) and tag.isascii() and tag.isprintable() and 0 < len(tag) <= MAX_TAG_LENGTH):
            check_text(tag, f"tags[{index}]", max_length=MAX_TAG_LENGTH)
    return tags if len(tags) < 2 else tuple(dict.fromkeys(tags))


def check_event_id(value: Any) -> str:
    return check_text(value, "event id", max_length=MAX_ID_LENGTH)


def check_key(value: Any) -> str | None:
    """Return the ordering key, None for no order."""
    return None if value is None else check_text(value, "key", max_length=MAX_KEY_LENGTH)


def check_source(value: Any) -> str:
    return check_text(value, "source", max_length=MAX_SOURCE_LENGTH)


def check_trace_parent(value: Any) -> str | None:
    """Return a W3C traceparent such as `00-<32 hex>-<16 hex>-01`."""
    if value is None:
        return None
    text = check_text(value, "traceparent", max_length=MAX_KEY_LENGTH)
    if not _TRACE_PARENT.fullmatch(text):
        raise InvalidInput(
            f"traceparent {text!r} is malformed; it looks like 00-<32 hex digits>-<16 hex digits>-01",
            field="traceparent",
        )
    return text


def mail_addresses(value: str | None) -> tuple[str, ...]:
    """Return the addresses of a comma separated list that `check_mails` let through."""
    return tuple(part for part in (piece.strip() for piece in (value or "").split(",")) if part)


def check_mails(value: Any, what: str) -> str | None:
    """Return the comma separated plain addresses in `value`, or None when there is none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise InvalidInput(f"{what} must be a text of mail addresses, not {type(value).__name__}", field=what)
    pieces = [piece.strip() for piece in value.strip().split(",")]
    if len(pieces) > MAX_ADDRESSES:
        raise InvalidInput(f"{what}: {len(pieces)} addresses, the limit is {MAX_ADDRESSES}", field=what)
    for piece in pieces:
        if problem := _address_problem(piece):
            raise InvalidInput(f"{what}: {piece!a} is no mail address: {problem}", field=what, address=piece)
    return ", ".join(dict.fromkeys(pieces))


def _address_problem(address: str) -> str | None:
    if not address:
        return "nothing stands between two commas"
    local, at, domain = address.rpartition("@")
    if not at:
        return "there is no @ in it"
    if "<" in address or '"' in address or " " in address:
        return "give the plain address, without display name, quotes or blanks"
    if not _LOCAL.fullmatch(local) or len(local) > MAX_LOCAL_LENGTH:
        return f"{local!a} before the @ is not up to {MAX_LOCAL_LENGTH} plain letters, digits and marks"
    return _domain_problem(domain, len(local))


def _domain_problem(domain: str, local_length: int) -> str | None:
    try:
        # The codec knows international names; what it can not write no mail server can be asked for.
        ascii_domain = domain.encode("idna").decode("ascii")
    except UnicodeError as exc:
        return f"{domain!a} is no domain name ({exc.__cause__ or exc})"
    if local_length + 1 + len(ascii_domain) > MAX_ADDRESS_LENGTH:
        return f"it is longer than {MAX_ADDRESS_LENGTH} characters"
    labels = ascii_domain.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        return f"{domain!a} is no domain name"
    if len(labels) < 2 and ascii_domain.lower() != "localhost":
        return f"{domain!a} has no dot in it"
    if len(labels) > 1 and labels[-1].isdigit():
        return f"{domain!a} ends with a number; addresses need a domain name"
    return None
