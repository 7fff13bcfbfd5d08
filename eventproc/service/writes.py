"""What a handler may ask to be written: validated when it asks, kept until its run's commit."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from eventproc.engine.accept import prepare
from eventproc.errors import Conflict, EventConflict, EventprocError, InvalidInput, NotFound, TooLarge, Unavailable
from eventproc.model import (
    AnnotationsEffect,
    Claim,
    Effects,
    Event,
    FileEffect,
    InsertEffect,
    NewEvent,
    NewOutgoing,
    Series,
    User,
)
from eventproc.registry.catalogue import Catalogue
from eventproc.service import args as take
from eventproc.service import messages
from eventproc.service.context import ServiceContext
from eventproc.service.lately import Lately
from eventproc.service.reads import Answer, stream_dict

SERIES_NAMESPACE = uuid.UUID("8b2f7c0e-6a52-5d0f-9a4c-0d6f8a1f3b5e")  # for streams that are created without a UUID
MAX_FILE_NAME = 200  # characters
MEMORY_BYTES = 1 << 20  # of an upload on its way; the rest goes to a temporary file
PIECE_BYTES = 1 << 20
CATALOGUE_S = 1.0  # a new hook is known to a running handler within so many seconds
SAMPLE_BYTES = 16  # an int64 and a float64
VALUE_BYTES = 100  # of memory for one JSON value, with its key
Write = Callable[[Mapping[str, Any], bytes], Answer]


class Upload:
    """A file on its way from a handler to the blob store."""

    def __init__(self, name: str, work_dir: str | None) -> None:
        self.name = name
        self.size = 0
        self._spool = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES, dir=work_dir)  # noqa: SIM115 - see close()

    def write(self, data: bytes) -> None:
        self._spool.write(data)
        self.size += len(data)

    def pieces(self) -> Iterator[bytes]:
        self._spool.seek(0)
        while piece := self._spool.read(PIECE_BYTES):
            yield piece

    def close(self) -> None:
        self._spool.close()


class Writes:
    """One execution's buffer of effects, behind the writing requests."""

    def __init__(
        self,
        context: ServiceContext,
        claim: Claim,
        owner: Callable[[], User],
        lately: Lately,
        *,
        sealed: bool = False,
        redact: Callable[[str], str] = str,
    ) -> None:
        self._context = context
        self._claim = claim
        self._owner = owner
        self._lately = lately
        self._redact = redact
        self._limits = claim.handler.options.limits
        self._catalogue: Catalogue | None = None
        self._catalogue_until = 0.0  # on the monotonic clock
        self._events: dict[str, tuple[NewEvent, str]] = {}  # by id, with the digest
        self._inserts: list[InsertEffect] = []
        self._series: dict[str, Series] = {}
        self._annotations: dict[str, AnnotationsEffect] = {}
        self._files: list[FileEffect] = []
        self._outgoing: list[NewOutgoing] = []
        self._uploads: dict[str, Upload] = {}
        self._count = 0
        self._bytes = 0
        self._sealed = sealed

    def ops(self) -> dict[str, Write]:
        return {
            "insert": self.insert,
            "create_stream": self.create_stream,
            "set_annotations": self.set_annotations,
            "emit": self.emit,
            "emit_all": self.emit_all,
            "publish": self.publish,
            "post": self.post,
            "upload_open": self.upload_open,
            "upload_write": self.upload_write,
            "upload_close": self.upload_close,
        }

    def effects(self) -> Effects:
        """Return what was asked for; from now on nothing can be added."""
        self._sealed = True
        self._drop_uploads()
        return Effects(
            events=tuple(event for event, _ in self._events.values()),
            inserts=tuple(self._inserts),
            files=tuple(self._files),
            series=tuple(self._series.values()),
            annotations=tuple(self._annotations.values()),
            outgoing=tuple(self._outgoing),
        )

    def discard(self) -> None:
        """Forget everything, and remove the uploaded bytes."""
        self._sealed = True
        self._drop_uploads()
        files, self._files = self._files, []
        self._outgoing = []
        self._events, self._inserts, self._series, self._annotations = {}, [], {}, {}
        for file in files:
            # What stays behind has no row, and is swept up later.
            with contextlib.suppress(OSError, Unavailable):
                self._context.blobs.delete(file.code)

    def _drop_uploads(self) -> None:
        """Forget the files that were never closed."""
        for upload in self._uploads.values():
            upload.close()
        self._uploads = {}

    # ------------------------------------------------------------------------------------------ caps

    def _room(self, *, size: int = 0) -> None:
        """Make room for one more effect. Raises TooLarge naming the limit."""
        self._open()
        if self._count >= self._limits.effects:
            raise TooLarge(
                f"the run has asked for {self._count:,} effects (events, inserts, streams and files), the limit "
                "'effects' of its handler; put more into each, or register with a higher limit",
                limit=self._limits.effects,
            )
        most = self._context.settings.max_effect_bytes
        if self._bytes + size > most:
            raise TooLarge(
                f"the run's effects would take more than {most:,} bytes; spread the work over several runs", limit=most
            )
        self._count += 1
        self._bytes += size

    def _open(self) -> None:
        if self._sealed:
            raise Conflict(
                "the run's effects are recorded already: commit and rollback functions can not emit, insert or upload"
            )

    # ------------------------------------------------------------------------------------------ events

    def emit(self, args: Mapping[str, Any], body: bytes) -> Answer:  # noqa: ARG002 - writes have one shape
        return {"id": self._emit(args, look=True)}, ()

    def emit_all(self, args: Mapping[str, Any], body: bytes) -> Answer:  # noqa: ARG002 - writes have one shape
        """Take the new events of a pipeline; ids that are taken already are left alone when they are written."""
        given = args.get("events")
        if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
            raise InvalidInput("emit_all: events is a list of objects", argument="events")
        return {"ids": [self._emit(item, look=False) for item in given]}, ()

    def _emit(self, args: Mapping[str, Any], *, look: bool) -> str:
        self._open()
        cause = self._claim.event
        event = NewEvent(
            hook=take.text(args, "hook"),
            payload=_payload(args),
            id=args.get("id"),
            source=args.get("source"),
            time_us=args.get("time_us"),
            tags=take.text_list(args, "tags"),
            key=args.get("key"),
            trace_parent=cause.trace_parent,
            hops=cause.hops + 1,
            caused_by_run=self._claim.run_id,
        )
        prepared = self._prepared(event)
        known = self._events.get(prepared.id)
        if known is not None:
            if known[1] != prepared.digest:
                raise EventConflict(f"this run emitted an event {prepared.id!r} with other content", id=prepared.id)
            return prepared.id
        if look:
            self._check_unused(event, prepared)
        self._room(size=_held(prepared.payload_json))
        self._events[prepared.id] = (replace(event, id=prepared.id), prepared.digest)
        return prepared.id

    def _prepared(self, event: NewEvent) -> Event:
        def prepared(catalogue: Catalogue) -> Event:
            return prepare(
                catalogue,
                event,
                user_id=self._claim.owner_id,
                now_us=self._context.clock.now_us(),
                max_payload_bytes=self._context.settings.max_payload_bytes,
            )

        catalogue = self._present_catalogue()
        try:
            return prepared(catalogue)
        except EventprocError:
            # What was read for another run a moment ago may lack the hook, or have its schema of before.
            latest = self._catalogue = self._context.cache.latest()
            if latest is catalogue:
                raise
            return prepared(latest)

    def _check_unused(self, event: NewEvent, prepared: Event) -> None:
        """Tell the handler now what would otherwise break its commit: the id is taken."""
        if event.id is None:
            return
        with self._context.store.read() as tx:
            stored = tx.events.get(event.id)
        if stored is not None and stored.digest != prepared.digest:
            raise EventConflict(f"there is an event {event.id!r} with other content already", id=event.id)

    def _present_catalogue(self) -> Catalogue:
        now = time.monotonic()
        if self._catalogue is None or now > self._catalogue_until:
            self._catalogue = self._lately.catalogue()
            self._catalogue_until = now + CATALOGUE_S
        return self._catalogue

    # ------------------------------------------------------------------------------------------ other systems

    def publish(self, args: Mapping[str, Any], body: bytes) -> Answer:
        """Keep a message for the broker."""
        self._keep(messages.to_broker(args, body))
        return None, ()

    def post(self, args: Mapping[str, Any], body: bytes) -> Answer:
        """Keep a request to a web server; whether its address may be reached is looked at now."""
        self._keep(messages.to_web(args, body, self._context.settings.policy.network))
        return None, ()

    def _keep(self, message: NewOutgoing) -> None:
        self._room(size=len(message.body) + len(message.target) + len(str(message.headers)))
        self._outgoing.append(message)

    # ------------------------------------------------------------------------------------------ series

    def create_stream(self, args: Mapping[str, Any], body: bytes) -> Answer:  # noqa: ARG002 - writes have one shape
        self._open()
        name, collection = take.text(args, "name"), take.optional_text(args, "collection") or ""
        given = args.get("uuid")
        key = str(uuid.uuid5(SERIES_NAMESPACE, f"{collection}\n{name}")) if given is None else take.uuid_text(given)
        wanted = Series(
            uuid=key,
            name=name,
            collection=collection,
            unit=take.optional_text(args, "unit") or "",
            tags=take.texts(args, "tags"),
            created_us=self._context.clock.now_us(),
            owner_id=self._owner().id,
        )
        found = self._series.get(key) or self._stored(key)
        if found is not None:
            if (found.name, found.collection) != (name, collection):
                raise Conflict(
                    f"stream {key} exists under another name: {found.collection!r} / {found.name!r}", uuid=key
                )
            return stream_dict(found), ()
        self._room(size=len(str(wanted)))
        self._series[key] = wanted
        return stream_dict(wanted), ()

    def insert(self, args: Mapping[str, Any], body: bytes) -> Answer:
        self._open()
        key = self._writable(args)
        count, rest = divmod(len(body), SAMPLE_BYTES)
        if rest:
            raise InvalidInput(f"{len(body)} bytes are not int64 times and as many float64 values")
        if count == 0:
            return None, ()
        times = np.frombuffer(body, "<i8", count)
        if int(times.max()) == take.INT64_MAX:
            raise InvalidInput("a time is beyond the range of int64 nanoseconds")
        self._room(size=len(body))
        half = count * 8
        self._inserts.append(InsertEffect(series=key, times_ns=body[:half], values=body[half:]))
        return None, ()

    def set_annotations(self, args: Mapping[str, Any], body: bytes) -> Answer:  # noqa: ARG002 - writes have one shape
        self._open()
        key = self._writable(args)
        annotations = take.texts(args, "annotations")
        self._room(size=len(str(annotations)))
        self._annotations[key] = AnnotationsEffect(series=key, annotations=annotations)
        return None, ()

    def _writable(self, args: Mapping[str, Any]) -> str:
        key = take.uuid_text(args.get("uuid"))
        found = self._series.get(key) or self._stored(key)
        if found is None:
            raise NotFound(f"there is no stream {key}; create it first", uuid=key)
        if found.layout != "chunks":
            raise Conflict(f"stream {key} ({found.name}) is written by the metrics listener only", uuid=key)
        return key

    def _stored(self, key: str) -> Series | None:
        with self._context.store.read() as tx:
            return tx.series.get(key)

    # ------------------------------------------------------------------------------------------ files

    def upload_open(self, args: Mapping[str, Any], body: bytes) -> Answer:  # noqa: ARG002 - writes have one shape
        self._open()
        name = self._redact(take.text(args, "name", max_length=MAX_FILE_NAME))[:MAX_FILE_NAME]
        if name in (".", "..") or "/" in name or "\\" in name:
            raise InvalidInput(f"the file's name {name!r} must not hold a path", argument="name")
        self._check_upload(take.optional_integer(args, "size") or 0)
        self._room()
        code = secrets.token_hex(16)
        work_dir = self._context.settings.work_dir
        self._uploads[code] = Upload(name, str(work_dir) if work_dir else None)
        return {"code": code, "url": self._url(code)}, ()

    def upload_write(self, args: Mapping[str, Any], body: bytes) -> Answer:
        self._open()
        upload = self._upload(args)
        self._check_upload(len(body))
        try:
            upload.write(body)
        except OSError as error:
            raise Unavailable(f"the platform can not take the file {upload.name!r}: {error.strerror}") from error
        return None, ()

    def upload_close(self, args: Mapping[str, Any], body: bytes) -> Answer:  # noqa: ARG002 - writes have one shape
        self._open()
        upload = self._upload(args)
        code = str(args.get("code"))
        try:
            size, digest = self._context.blobs.put(code, upload.pieces(), max_bytes=self._limits.upload_bytes)
        except OSError as error:
            raise Unavailable(f"the platform can not store the file {upload.name!r}: {error.strerror}") from error
        finally:
            del self._uploads[code]
            upload.close()
        self._files.append(FileEffect(code=code, name=upload.name, size=size, digest=digest))
        return {"size": size, "url": self._url(code)}, ()

    def _upload(self, args: Mapping[str, Any]) -> Upload:
        upload = self._uploads.get(str(args.get("code")))
        if upload is None:
            raise NotFound("no such upload is open", argument="code")
        return upload

    def _check_upload(self, more: int) -> None:
        used = sum(file.size for file in self._files) + sum(upload.size for upload in self._uploads.values())
        if used + more > self._limits.upload_bytes:
            raise TooLarge(
                f"the run's files would take more than {self._limits.upload_bytes:,} bytes, the limit 'upload' of its "
                "handler; register with a higher limit",
                limit=self._limits.upload_bytes,
            )

    def _url(self, code: str) -> str:
        return f"{self._context.settings.base_url.rstrip('/')}/{code}"


def _held(payload_json: str) -> int:
    """Return about how many bytes a payload takes as objects, which is what a run's events are until its commit."""
    values = sum(payload_json.count(sign) for sign in ",[{") + 1
    return len(payload_json) + VALUE_BYTES * values


def _payload(args: Mapping[str, Any]) -> Mapping[str, Any]:
    payload = args.get("payload")
    if not isinstance(payload, Mapping):
        raise InvalidInput(f"'payload' must be a dict, not {type(payload).__name__}", argument="payload")
    return payload
