"""
Replaces the values of secrets by their names, in whatever leaves a run.

A value is found as it is, and as JSON, Python, URLs, base64 and hex write it. What a handler has changed in other ways
(reversed, encrypted, spelt out) is not: this guards against mishaps, not against the secrets' owner.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from urllib.parse import quote, quote_plus

from eventproc.abc import Outcome, RunSession
from eventproc.model import Failure

MIN_LENGTH = 4  # characters; shorter values occur by chance everywhere
MIN_BASE64 = 6  # characters of base64 that are the value's alone, whatever stands around it
# Where the platform cut a text, half of a value may stand on either side.
MAX_CUTS = 4  # in one text: a handler may write the words themselves
_CUTS = re.compile(r"\n\[(?:\.\.\. \d+ characters cut \.\.\.\]\n|(?:output )?cut here: )")

_SCALARS = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*')


def _forms(value: str) -> Iterator[str]:
    data = value.encode("utf-8", "surrogatepass")
    yield value
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield repr(value)[1:-1]
    yield repr(data)[2:-1]
    for quoted in (quote(data, safe=""), quote(data), quote_plus(data)):
        yield quoted
        yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), quoted)
    yield data.hex()
    yield data.hex().upper()
    yield from _base64_forms(data)


def _base64_forms(data: bytes) -> Iterator[str]:
    """Base64 of the value alone, and the part of it that does not change wherever in a longer text it stands."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(data).decode()
        yield whole
        yield whole.rstrip("=")
        for before in range(3):
            text = encode(b"\0" * before + data).decode()
            first, last = -(-before * 8 // 6), (before + len(data)) * 8 // 6
            if last - first >= MIN_BASE64:
                yield text[first:last]


class Redactor:
    """Knows the values of one run's secrets."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._names: dict[str, str] = {}
        for name, value in secrets.items():
            # Files end with a line break, and what is read from them often without.
            for variant in dict.fromkeys((value, value.strip(), value.replace("\r\n", "\n"))):
                if len(variant) >= MIN_LENGTH:
                    for form in _forms(variant):
                        self._names.setdefault(form, name)
        self._forms = sorted(self._names, key=len, reverse=True)  # the longest first: it may contain the others
        self._pattern = re.compile("|".join(map(re.escape, self._forms))) if self._forms else None

    def __bool__(self) -> bool:
        return self._pattern is not None

    def text(self, text: str) -> str:
        """Return the text without the values."""
        if self._pattern is None or not text:
            return text
        return self._cuts(self._pattern.sub(self._mask, text))

    def json(self, text: str) -> str:
        """Return JSON text without the values, still JSON: numbers that hold one become texts."""
        if self._pattern is None or (self._pattern.search(text) is None and "\\" not in text):
            return text
        clean = _SCALARS.sub(self._scalar, text)
        # A value that is JSON itself shows in the text, but in none of its scalars.
        return clean if self._pattern.search(clean) is None else json.dumps(self.text(clean), ensure_ascii=False)

    def beginning(self, text: str) -> int:
        """Return where the end of the text begins that can not be judged without what comes after it."""
        assert self._pattern is not None
        start = len(text) - max(_overlap(form, text) for form in self._forms)
        for found in self._pattern.finditer(text, max(0, start - len(self._forms[0]))):
            if found.start() < start < found.end():
                return found.start()
        return start

    def _mask(self, found: re.Match[str]) -> str:
        return _mask(self._names[found[0]])

    def _scalar(self, found: re.Match[str]) -> str:
        token = found[0]
        value = json.loads(token) if token[0] == '"' else token
        clean = self.text(value)
        return token if clean == value else json.dumps(clean, ensure_ascii=False)

    def _cuts(self, text: str) -> str:
        """Take away the halves of values that stand where the platform cut a text."""
        pieces: list[str] = []
        for _ in range(MAX_CUTS):
            found = _CUTS.search(text)
            if found is None:
                break
            pieces += [self._without_end(text[: found.start()]), found[0]]
            text = self._without_beginning(text[found.end() :])
        return "".join([*pieces, text])

    def _without_end(self, text: str) -> str:
        size, form = max((_overlap(form, text), form) for form in self._forms)
        return text if size < MIN_LENGTH else text[:-size] + _mask(self._names[form])

    def _without_beginning(self, text: str) -> str:
        backwards = text[: len(self._forms[0])][::-1]
        size, form = max((_overlap(form[::-1], backwards), form) for form in self._forms)
        return text if size < MIN_LENGTH else _mask(self._names[form]) + text[size:]


def _overlap(form: str, text: str) -> int:
    """Return how many characters at the text's end are the form's beginning, but not all of it."""
    tail = text[-len(form) + 1 :] if len(form) > 1 else ""
    head = form[:MIN_LENGTH]
    at = tail.find(head)
    while at >= 0:
        if form.startswith(tail[at:]):
            return len(tail) - at
        at = tail.find(head, at + 1)
    return next((size for size in range(min(MIN_LENGTH, len(form)) - 1, 0, -1) if tail.endswith(form[:size])), 0)


def _mask(name: str) -> str:
    return f"***{name}***"


class RedactedStreams:
    """Output by stream, without the values, also where one comes in pieces."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held: dict[str, str] = {}

    def feed(self, stream: str, text: str) -> str:
        """Take a piece of a stream; return what can be shown of it by now."""
        if not self._redactor:
            return text
        text = self._held.pop(stream, "") + text
        end = self._redactor.beginning(text)
        if end < len(text):
            self._held[stream] = text[end:]
        return self._redactor.text(text[:end])

    def rest(self) -> list[tuple[str, str]]:
        """Return, by stream, what was held back: nothing comes after it."""
        held, self._held = self._held, {}
        return [(stream, self._redactor.text(text)) for stream, text in held.items()]


def redacted(outcome: Outcome, session: RunSession) -> Outcome:
    """Return an execution's outcome as it may be stored."""
    result = outcome.result_json
    return replace(
        outcome,
        result_json=None if result is None else session.redact_json(result),
        failure=redacted_failure(outcome.failure, session),
    )


def redacted_failure(failure: Failure | None, session: RunSession) -> Failure | None:
    """Return a failure as it may be stored."""
    if failure is None:
        return None

    def clean(text: str | None) -> str | None:
        return None if text is None else session.redact(text)

    return replace(
        failure,
        message=session.redact(failure.message),
        type=clean(failure.type),
        traceback=clean(failure.traceback),
    )
