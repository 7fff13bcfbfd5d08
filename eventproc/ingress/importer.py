"""
Import of a whole archive: each record by itself, then one event about all of them.

A channel's series has a UUID made from the station, the device and the channel. So the same file gives the same series
again (and changes nothing), and the next record of that device continues them.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final, TypeAlias

import structlog

from eventproc.abc import Bus, Clock, Store, Tx
from eventproc.codec.chunks import Scale
from eventproc.engine import series as engine
from eventproc.engine.accept import accept_events
from eventproc.errors import EventConflict, EventprocError, IngressError
from eventproc.ingress.archive import Archive, ArchiveLimits, Member, Skipped, Source, open_archive
from eventproc.ingress.config import Channel, Config
from eventproc.ingress.record import Record, Series, read_cff, read_record
from eventproc.model import Accepted, NewEvent
from eventproc.model import Series as SeriesRow
from eventproc.model.times import isoformat
from eventproc.registry.catalogue import CatalogueCache
from eventproc.registry.checks import check_event_id, check_tags

log = structlog.get_logger(__name__)

HOOK: Final = "ctingress.on_complete"
NAMESPACE: Final = uuid.UUID("6f0c9c51-5a0e-5b0e-9d7a-3c1c8e0f7a11")  # of the channels' UUIDs; never to be changed
MAX_PAYLOAD: Final = 32 << 20  # bytes; an archive of many records has more to tell than an event usually may
_FLUSH: Final = 1_000_000  # samples that are written in one transaction, which keeps other writers waiting
_MAX_ERROR: Final = 500  # characters
_MAX_NAME: Final = 200  # characters

Payload: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far an import is: the `done`-th of `total` records has just been finished, and why it is not `ok`."""

    done: int
    total: int
    name: str
    ok: bool
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """
    The outcome of an import.

    `notes` are oddities that did no harm, `skipped` the archive's members that were left alone. An import that was
    done before (`accepted.duplicate`) has neither.
    """

    payload: Payload
    event: NewEvent
    accepted: Accepted
    notes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Item:
    """A record of the archive: its name, and how to read it. Reading may raise."""

    name: str
    read: Callable[[], Record]


def import_archive(
    source: Source,
    *,
    name: str,
    store: Store,
    clock: Clock,
    cache: CatalogueCache,
    tags: Sequence[str] = (),
    user_id: int | None = None,
    bus: Bus | None = None,
    request_id: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    limits: ArchiveLimits | None = None,
) -> Imported:
    """
    Import the COMTRADE records of an archive and accept one event `ctingress.on_complete` about them.

    The event is accepted in the transaction that writes the last samples, under the id `request_id`: a repeated call
    with the same id and archive returns what the first one did; with another archive it is an EventConflict.
    Large archives are written in several transactions; where one fails there is no event, and importing the archive
    again completes it. A record that can not be read is reported in the payload.

    Raises IngressError when the archive as a whole is no good or holds no records at all.
    """
    submitted_us = clock.now_us()
    request_id = str(uuid.uuid4()) if request_id is None else check_event_id(request_id)
    tags = check_tags(tags)
    with store.read() as tx:
        cache.current(tx).spec_for_event(HOOK)
    with open_archive(source, name=name, limits=limits) as archive:
        origin = f"comtrade:{archive.digest}"
        known = _known(store, request_id, origin)
        if known is not None:
            return known
        items = list(_items(archive))
        if not items:
            raise _nothing(name, archive)
        work = _Work(store=store, clock=clock, user_id=user_id)
        datasets = _read_all(items, work, progress)
    payload = {
        "DataSets": datasets,
        "File": PurePosixPath(name.replace("\\", "/")).name or "archive",
        "RequestID": request_id,
        "SubmittedAt": isoformat(submitted_us),
    }
    event = NewEvent(hook=HOOK, payload=payload, id=request_id, source=origin, time_us=submitted_us, tags=tags)
    try:
        with store.begin() as tx:
            work.write(tx)
            accepted = _accept(tx, event, cache=cache, clock=clock, user_id=user_id, bus=bus)
    except EventConflict:
        known = _known(store, request_id, origin)  # somebody else was importing the same at the same time
        if known is None:
            raise
        return known
    for skipped in archive.skipped:
        log.info("comtrade member skipped", file=name, member=skipped.path, reason=skipped.reason)
    return Imported(
        payload=payload,
        event=event,
        accepted=accepted,
        notes=tuple(work.notes),
        skipped=tuple(archive.skipped),
    )


def _read_all(items: Sequence[_Item], work: _Work, progress: Callable[[Progress], None] | None) -> list[Payload]:
    datasets: list[Payload] = []
    for done, item in enumerate(items, start=1):
        last = work.add(item)
        datasets.append(last)
        if progress is not None:
            progress(Progress(done=done, total=len(items), name=last["Name"], ok=last["Success"], reason=last["Error"]))
    return datasets


def _accept(
    tx: Tx, event: NewEvent, *, cache: CatalogueCache, clock: Clock, user_id: int | None, bus: Bus | None
) -> Accepted:
    (result,) = accept_events(
        tx,
        cache.current(tx),
        [event],
        user_id=user_id,
        now_us=clock.now_us(),
        source=event.source or HOOK,
        max_payload_bytes=MAX_PAYLOAD,
        bus=bus,
    )
    if isinstance(result, EventprocError):
        raise result
    return result


def _known(store: Store, request_id: str, origin: str) -> Imported | None:
    """Return what an earlier import with that id came to."""
    with store.read() as tx:
        event = tx.events.get(request_id)
    if event is None:
        return None
    if event.hook != HOOK or event.source != origin:
        raise EventConflict(f"the request id {request_id!r} is already used for something else", id=request_id)
    payload = json.loads(event.payload_json)
    return Imported(
        payload=payload,
        event=NewEvent(
            hook=HOOK,
            payload=payload,
            id=event.id,
            source=origin,
            time_us=event.time_us,
            tags=event.tags,
            key=event.key,
        ),
        accepted=Accepted(id=event.id, seq=event.seq, duplicate=True),
    )


ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz"})  # by the ends of names


def _nothing(name: str, archive: Archive) -> IngressError:
    members, skipped = [each.path for each in archive.members], [each.path for each in archive.skipped]
    seen = list(dict.fromkeys(members + skipped))
    what = f"it holds {', '.join(seen[:5])}{' and more' if len(seen) > 5 else ''}" if seen else "it is empty"
    if any(PurePosixPath(path).suffix.lower() in ARCHIVES for path in seen):
        what += "; archives inside an archive are not opened, import each by itself"
    return IngressError(f"there is no COMTRADE record (.cfg with .dat, or .cff) in {name}: {what}", files=seen[:100])


# --------------------------------------------------------------------------------------------------- pairing


def _items(archive: Archive) -> Iterator[_Item]:
    """Pair the files; letter case does not matter, unless two files differ by nothing else."""
    by_key: dict[tuple[str, str], list[Member]] = {}
    for member in archive.members:
        by_key.setdefault(_key(member.path), []).append(member)
    refused = {_key(skipped.path): skipped for skipped in archive.skipped if skipped.refused}
    paired: set[str] = set()
    for member in archive.members:
        stem, kind = _key(member.path)
        if kind == ".cff":
            yield _Item(name=_name(member.path), read=lambda member=member: read_cff(member.read()))  # type: ignore[misc]
        elif kind == ".cfg":
            data = _closest(member, by_key.get((stem, ".dat"), []))
            paired.add(data.path if data else "")
            yield _pair(member, data, refused.get((stem, ".dat")))
    yield from _left_over(archive, paired, refused)


def _pair(config: Member, data: Member | None, refused: Skipped | None) -> _Item:
    if data is None:
        expected = PurePosixPath(config.path).with_suffix(".dat").name
        missing = f"its data file {expected} is missing"
        return _failing(config.path, f"{expected} was refused: {refused.reason}" if refused else missing)
    return _Item(name=_name(config.path), read=lambda: read_record(config.read(), data.read()))


def _left_over(archive: Archive, paired: set[str], refused: dict[tuple[str, str], Skipped]) -> Iterator[_Item]:
    """Report data without configuration and records that were refused, and note what is no COMTRADE file."""
    for member in archive.members:
        stem, kind = _key(member.path)
        if kind == ".dat" and member.path not in paired:
            why = refused.get((stem, ".cfg"))
            yield _failing(member.path, f"there is no .cfg for it{f' ({why.reason})' if why else ''}")
        elif kind not in (".cfg", ".dat", ".cff", ".hdr", ".inf"):
            reason = f"it is not a COMTRADE file ({PurePosixPath(member.path).suffix or 'no extension'})"
            if kind in ARCHIVES:
                reason = "archives inside an archive are not opened; import it by itself"
            archive.skipped.append(Skipped(path=member.path, reason=reason, refused=False))
    for (_, kind), skipped in refused.items():
        if kind in (".cfg", ".cff"):
            yield _failing(skipped.path, f"refused: {skipped.reason}")


def _key(path: str) -> tuple[str, str]:
    """Return path without extension and extension, both in lower case."""
    pure = PurePosixPath(path.lower().replace("\\", "/"))
    return str(pure.with_suffix("")) if pure.name else str(pure), pure.suffix


def _closest(member: Member, candidates: Sequence[Member]) -> Member | None:
    stem = member.path[:-4]
    return next((other for other in candidates if other.path[:-4] == stem), candidates[0] if candidates else None)


def _failing(path: str, why: str) -> _Item:
    def read() -> Record:
        raise IngressError(why)

    return _Item(name=_name(path), read=read)


def _name(path: str) -> str:
    return "/" + path.lstrip("/")


# --------------------------------------------------------------------------------------------------- writing


@dataclass(kw_only=True)
class _Work:
    """Reads records and writes their samples, some records' worth in a transaction."""

    store: Store
    clock: Clock
    user_id: int | None
    notes: list[str] = field(default_factory=list)
    _pending: list[tuple[SeriesRow, Series]] = field(default_factory=list)
    _samples: int = 0

    def add(self, item: _Item) -> Payload:
        """Read a record and return its data set for the payload; its samples are written now or by `write`."""
        try:
            record = item.read()
        except EventprocError as error:
            return _failed(item.name, error.message)
        except Exception as error:
            # Hostile files: whatever they break, the other records are read.
            log.warning("comtrade record broke its reader", record=item.name, exc_info=True)
            return _failed(item.name, f"the record can not be read ({type(error).__name__}: {error})")
        self.notes += [f"{item.name}: {note}" for note in record.notes]
        streams = []
        identify = _Identities(record.config, item.name)
        for series in record.series():
            row = identify.row(series.channel, now_us=self.clock.now_us(), owner_id=self.user_id)
            streams.append(
                {
                    "EndNs": int(series.times_ns[-1]),
                    "ProcessedAtNs": self.clock.now_us() * 1000,
                    "StartNs": int(series.times_ns[0]),
                    "Uuid": row.uuid,
                }
            )
            self._pending.append((row, series))
            self._samples += len(series.times_ns)
            if self._samples >= _FLUSH:
                with self.store.begin() as tx:
                    self.write(tx)
        return {"Error": "", "Name": item.name, "Streams": streams, "Success": True}

    def write(self, tx: Tx) -> None:
        """Write what is waiting; rows are locked in one order everywhere, so that imports never lock each other out."""
        pending, self._pending, self._samples = self._pending, [], 0
        for row, series in sorted(pending, key=lambda item: item[0].uuid):
            tx.series.put(row)
            scale = Scale(series.channel.a, series.channel.b)
            engine.insert(tx, row.uuid, series.times_ns, series.values, scale=scale)


def _failed(name: str, error: str) -> Payload:
    text = " ".join(error.split())
    return {"Error": text[:_MAX_ERROR] or "unknown error", "Name": name, "Streams": [], "Success": False}


class _Identities:
    """Gives each channel of one record its series."""

    def __init__(self, config: Config, name: str) -> None:
        self._config = config
        # A recorder without any name would share its series with all others of that kind.
        self._anonymous = "" if config.station or config.device else PurePosixPath(name).stem
        self._seen: Counter[str] = Counter()

    def row(self, channel: Channel, *, now_us: int, owner_id: int | None) -> SeriesRow:
        config = self._config
        called = channel.name or str(channel.number)
        key = [config.station, config.device, self._anonymous, channel.kind, called, channel.phase]
        identity = json.dumps(key, ensure_ascii=False)
        serial = self._seen[identity]
        self._seen[identity] += 1
        if serial:
            # Channels that nothing but their place tells apart.
            identity = json.dumps([*key, serial], ensure_ascii=False)
            called = f"{called} #{serial + 1}"
        annotations = {
            "primary": channel.primary,
            "secondary": channel.secondary,
            "scaling": channel.scaling,
            "line frequency": config.frequency or None,
        }
        tags = {
            "kind": channel.kind,
            "phase": channel.phase,
            "component": channel.component,
            "station": config.station,
            "device": config.device,
        }
        return SeriesRow(
            uuid=str(uuid.uuid5(NAMESPACE, identity)),
            name=_label(called, "channel"),
            collection=f"comtrade/{_step(config.station)}/{_step(config.device or self._anonymous)}",
            unit=_label(channel.unit, ""),
            tags={name: _label(value, "") for name, value in tags.items() if value},
            annotations={name: str(value) for name, value in annotations.items() if value not in (None, "")},
            created_us=now_us,
            owner_id=owner_id,
        )


def _label(text: str, default: str) -> str:
    """Make a name from a file fit to be shown and stored."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.split())[:_MAX_NAME] or default


def _step(text: str) -> str:
    return _label(text.replace("/", "_"), "unknown")
