"""Playing recorded days here, without a server: a platform of its own, in memory or on a database that is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from eventproc.abc import Sandbox
from eventproc.engine.clock import SystemClock
from eventproc.engine.playback import Playback, Played
from eventproc.engine.worker import WorkerSettings
from eventproc.errors import InvalidInput
from eventproc.model import HookSpec
from eventproc.playback.place import StoredPlace
from eventproc.playback.recording import Recording, Watch, refusal
from eventproc.registry.documents import read_document
from eventproc.registry.triggers import parse_triggers
from eventproc.sandbox.forkserver import ForkServerSandbox
from eventproc.store import open_store
from eventproc.testing import LEASE_S, Harness

ANY = HookSpec(name="*", summary="Whatever a recording holds.")
"""Added to the platform of a playback: a recording may hold events of hooks that nobody has described."""


def playback_on(harness: Harness, **how: Any) -> Playback:
    """Return a playback into a harness' platform; `how` as Playback takes it."""
    return Playback(
        store=harness.store,
        cache=harness.cache,
        clock=harness.clock,
        wall=None if harness.wall is harness.clock else harness.wall,
        bus=harness.bus,
        settle=harness.settle,
        user_id=harness.admin.id,
        **how,
    )


def add_any_hook(harness: Harness) -> None:
    """Let the platform take events of every hook."""
    with harness.store.begin() as tx:
        tx.hooks.put(ANY, now_us=harness.wall.now_us(), by="playback")


class Player:
    """A platform for one playback: its store in memory or on a database, its handlers in sandbox children."""

    def __init__(
        self, *, database: str | None = None, handler_path: Sequence[Path] = (), sandbox: Sandbox | None = None
    ) -> None:
        store = open_store(database) if database is not None else None
        self._kept = store is not None
        self.harness = Harness(
            sandbox=sandbox or ForkServerSandbox(handler_path=handler_path),
            store=store,
            worker=WorkerSettings(slots=1, batch_slots=1, lease_s=LEASE_S, finish_delay_s=0.0),
            wall=SystemClock(),
        )
        add_any_hook(self.harness)

    def __enter__(self) -> Self:
        self.harness.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.harness.__exit__(*error)

    def add_pipelines(self, path: Path, *, naive: bool = False, setup: Sequence[str] = ()) -> None:
        """Register the pipelines of a pipelines.yaml; their handlers are names to import. Raises InvalidInput."""
        listed = read_document(path).value
        if not isinstance(listed, Mapping):
            raise InvalidInput(f"{path}: expected a mapping of pipelines to lists of handlers")
        for name, handlers in listed.items():
            if not isinstance(handlers, list):
                raise InvalidInput(f"{path}: pipeline {name!r} is not a list of handlers")
            self.harness.register_pipeline(str(name), handlers, naive=naive, setup=setup, isolation="batch")

    def add_triggers(self, path: Path, *, with_pipelines: bool = True) -> None:
        """Store the triggers of a triggers.yaml; without pipelines, streams are completed when they are due."""
        pipelines = [record.name for record in self.harness.use.pipelines.all(self.harness.admin)]
        compiled, _ = parse_triggers(
            path.read_text(encoding="utf-8"), name=str(path), pipelines=pipelines if with_pipelines else None
        )
        definitions = [each.definition for each in compiled]
        if not with_pipelines:
            definitions = [replace(each, fire_pipeline=None, expire_pipeline=None) for each in definitions]
        self.harness.use.triggers.put(self.harness.admin, definitions)

    def play(
        self,
        path: Path,
        *,
        speed: float | None = None,
        expire: bool = True,
        on_progress: Callable[[int], None] | None = None,
        watch: Watch | None = None,
    ) -> dict[str, Any]:
        """
        Play a recording; return how many events and streams there were. Lines that are wrong are listed.

        On a database that was given, a playback that was stopped goes on where it was.
        """
        recording = Recording(path, watch=watch)
        place = self._take(path) if self._kept else None
        player = playback_on(self.harness, speed=speed, on_progress=on_progress, place=place)
        found = run(player, recording, place, expire=expire)
        states = Counter(stream.state.label for stream in self.harness.streams)
        return {**found, "states": dict(sorted(states.items()))}

    def _take(self, path: Path) -> StoredPlace:
        return StoredPlace.take_up(self.harness.store, self.harness.cache, self.harness.wall, path)

    def report(self) -> list[dict[str, Any]]:
        """Return what became of each stream, with the events that its pipeline made."""
        made: dict[int, list[dict[str, Any]]] = {}
        for event in self.harness.events:
            if event.caused_by_run is not None:
                shown = {"message_id": event.id, "event_type": event.hook, "timestamp": event.time.isoformat()}
                made.setdefault(event.caused_by_run, []).append({**event.payload, **shown})
        return [
            {
                "stream": stream.id,
                "trigger": stream.name,
                "distinguished_by": stream.distinguished_by,
                "state": stream.state.label,
                "events": stream.events,
                "failure": None if stream.failure is None else stream.failure.message,
                "made": made.get(stream.run_id, []) if stream.run_id is not None else [],
            }
            for stream in self.harness.streams
        ]


def run(player: Playback, recording: Recording, place: StoredPlace | None, *, expire: bool) -> dict[str, Any]:
    """
    Play a recording to its end; return what it came to.

    What is due later than its last event happens too if it should `expire`, unless the recording was cut off: then it
    may go on. A `place` is left where the next playback takes it up, and is ended when all has happened.
    """
    whole = False
    began = 0 if place is None else place.position
    try:
        played = player.play(recording.events())
        if expire and (place is None or recording.cut is None):
            played = player.drain()
        whole = recording.cut is None
    finally:
        if place is not None and not (whole and expire):
            place.stop(whole=whole)
    if place is not None and whole and expire:
        place.end()
    return {
        "events": played.events,
        "duplicates": played.duplicates,
        "refused": recording.refused + [refusal(number, error) for number, error in played.refused],
        "fired": played.fired,
        "expired": played.expired,
        "cut": recording.cut,
        "from": began,
    }


def trial(
    text: str, recording: Path, *, name: str = "triggers.yaml", on_progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """
    Play a recording through the triggers of a file, without pipelines; return what they came to.

    Raises InvalidInput for a file that is wrong; lines of the recording that are wrong are listed.
    """
    compiled, warnings = parse_triggers(text, name=name)
    definitions = [
        replace(each.definition, fire_pipeline=None, expire_pipeline=None, debug_level=2) for each in compiled
    ]
    recording_ = Recording(recording)
    with Harness() as harness:
        add_any_hook(harness)
        records = harness.use.triggers.put(harness.admin, definitions).triggers
        player = playback_on(harness, on_progress=on_progress)
        found = run(player, recording_, None, expire=True)
        harness.cache.tally.flush()
        return {
            **{name: found[name] for name in ("events", "duplicates", "refused", "cut")},
            "warnings": list(warnings),
            "triggers": [_outcome(harness, record.name, record.id) for record in records],
        }


def _outcome(harness: Harness, name: str, trigger_id: int) -> dict[str, Any]:
    streams = [stream for stream in harness.streams if stream.trigger_id == trigger_id]
    fired = sum(1 for stream in streams if stream.fire_us is not None)
    with harness.store.read() as tx:
        checks = tx.triggers.checks(trigger_id)
    return {
        "name": name,
        "streams": len(streams),
        "fired": fired,
        "expired": len(streams) - fired,
        "checks": [
            {"kind": each.kind, "name": each.name, "checks": each.checks, "passed": each.passed} for each in checks
        ],
    }


__all__ = ["Playback", "Played", "Player", "add_any_hook", "playback_on", "run", "trial"]
