"""Where the platform is, and with which key to go there."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from eventproc.errors import ConfigError, InvalidInput, Unauthorized

ENDPOINT_VARIABLES = ("EVENTPROC_ENDPOINTS", "BTRDB_ENDPOINTS")
KEY_VARIABLES = ("EVENTPROC_API_KEY", "BTRDB_API_KEY")
CA_VARIABLE = "BTRDB_CA_BUNDLE"
HTTP_PORT = 8080

_HOST = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.%]+\]")


@dataclass(frozen=True, slots=True)
class Address:
    """Base URLs to try in turn, and the API key."""

    bases: tuple[str, ...]
    apikey: str = field(repr=False)


def resolve(endpoint: str | None, apikey: str | None) -> Address:
    """
    Complete what the caller gave from the environment, else from the platform that runs on this machine.

    The environment is read now, not when the module was imported. Raises InvalidInput, ConfigError, Unauthorized.
    """
    given = endpoint if endpoint is not None else _environment(ENDPOINT_VARIABLES)
    key = apikey if apikey is not None else _environment(KEY_VARIABLES)
    local, data = None, data_dir()
    if given is None or key is None:
        local = local_endpoint(data)
    if given is None:
        given = local
    if given is None:
        raise ConfigError(
            "no endpoint: pass one, as in Connection('localhost:8080', 'API-KEY'), or set EVENTPROC_ENDPOINTS; "
            f"no platform runs on {data} either"
        )
    bases = tuple(parse_endpoint(text) for text in re.split(r"[,;\s]+", given.strip()) if text)
    if not bases:
        raise InvalidInput("the endpoint is empty; write it as host:port, such as localhost:8080")
    # The key of this machine's platform is for that platform alone.
    if key is None and local is not None and bases == (parse_endpoint(local),):
        key = _read(data / "admin.key")
    return Address(bases, check_key(key))


def _environment(names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), None)


def data_dir() -> Path:
    """Return the data directory of this machine's platform, as the server chooses it."""
    if said := os.environ.get("EVENTPROC_DATA"):
        return Path(said).expanduser()
    base = os.environ.get("XDG_DATA_HOME", "")
    try:
        return (Path(base) if base else Path.home() / ".local" / "share") / "eventproc"
    except RuntimeError:  # a user id without an account, as containers have them: no platform of theirs is here
        return Path("/nonexistent")


def local_endpoint(data: Path) -> str | None:
    """Return the HTTP endpoint of the platform that runs on a data directory, None where none does."""
    text = _read(data / "endpoints.json")
    if text is None:
        return None
    try:
        found = json.loads(text)["http"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def parse_endpoint(text: str) -> str:
    """
    Turn `host:port`, `http://…` or `https://…` into a base URL without a slash at its end.

    Raises InvalidInput saying what is wrong with it.
    """
    form = "write it as host:port, http://host:port or https://host:port"
    url = text if "://" in text else f"http://{text}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise InvalidInput(f"invalid endpoint {_shown(text)}: {parts.scheme}:// is not spoken here; {form}")
    if "@" in parts.netloc:
        raise InvalidInput("invalid endpoint: it must not hold a name or password; pass the API key as apikey=")
    if "?" in url or "#" in url:
        raise InvalidInput(f"invalid endpoint {_shown(text)}: no ? or # belongs there; {form}")
    try:
        port = parts.port
    except ValueError as error:
        raise InvalidInput(f"invalid endpoint {_shown(text)}: the port must be 1 to 65535; {form}") from error
    host = parts.netloc.rpartition(":")[0] if port is not None else parts.netloc.removesuffix(":")
    if not _HOST.fullmatch(host) or port == 0:
        raise InvalidInput(f"invalid endpoint {_shown(text)}; {form}")
    if "://" not in text and port is None:
        raise InvalidInput(f"invalid endpoint {_shown(text)}: the port is missing; write {text}:{HTTP_PORT}")
    return url.rstrip("/")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:100] + "…")


def check_key(key: str | None) -> str:
    """Return an API key that can travel in a header. Raises Unauthorized; its text never repeats the key."""
    if not key or not key.strip():
        raise Unauthorized("no API key: pass it as apikey=, or set EVENTPROC_API_KEY (`eventproc keys` makes one)")
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise Unauthorized("the API key is malformed: it holds blanks, control characters or letters outside ASCII")
    return key
