"""Hooks and live handlers as one snapshot: which spec validates an event, and which handlers it runs."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eventproc.abc import Clock, Compile, Store, Tx
from eventproc.errors import UnknownHook
from eventproc.model import Event, HandlerRecord, HookSpec
from eventproc.model.quiet import QUIET_HOOKS
from eventproc.registry import globs
from eventproc.registry.checks import check_hook_name
from eventproc.registry.filters import FilterError, compile_filter
from eventproc.registry.schemas import PayloadSchema
from eventproc.registry.tally import Tally
from eventproc.registry.triggerset import TriggerSet

_MAX_CACHED_HOOKS = 10_000  # names that events came with; hooks under globs may be invented without end


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """One step on the way from an event to a handler: whether it let the event through, and why."""

    check: str  # hook | tags | filter | …
    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class _Candidate:
    record: HandlerRecord
    tags: frozenset[str]
    accepts: Callable[[Any], bool] | None


class Catalogue:
    """An immutable snapshot; its caches fill up as it is used and are safe to share between threads."""

    def __init__(
        self,
        *,
        revision: int,
        hooks: Sequence[HookSpec],
        handlers: Sequence[HandlerRecord],
        triggers: TriggerSet | None = None,
        tally: Tally | None = None,
        event_clock: Clock | None = None,
        playing: bool = False,
    ) -> None:
        self.revision = revision
        self.playing = playing  # a playback, whose time each transaction has to look up
        self.event_clock = event_clock
        self.played_us: int | None = None  # see `at`
        self.triggers = triggers or TriggerSet(())
        self.tally = tally
        self.hooks: Mapping[str, HookSpec] = {spec.name: spec for spec in hooks}
        self.handlers: tuple[HandlerRecord, ...] = tuple(handlers)
        self._by_hook: dict[str, HookSpec] = {}
        self._event_specs: dict[str, HookSpec] = {}
        self._schemas: dict[str, PayloadSchema] = {}
        self._candidates: dict[str, tuple[_Candidate, ...]] = {}

    def at(self, played_us: int) -> Catalogue:
        """Return the same with a present time of events and streams that stands still."""
        found = copy.copy(self)
        found.played_us = played_us
        return found

    def present_us(self, now_us: int) -> int:
        """Return the present time of events and streams, `now_us` being the world's."""
        if self.played_us is not None:
            return self.played_us
        return now_us if self.event_clock is None else self.event_clock.now_us()

    def spec_for(self, hook: str) -> HookSpec:
        """Return the spec of that name, else the most specific glob that matches. Raises UnknownHook."""
        spec = self._by_hook.get(hook)
        if spec is None:
            name = globs.most_specific(self.hooks, hook)
            if name is None:
                raise UnknownHook.named(hook, self.hooks)
            spec = self.hooks[name]
            _remember(self._by_hook, hook, spec)
        return spec

    def spec_for_event(self, hook: Any) -> HookSpec:
        """Return the spec of an event's hook. Raises InvalidInput for what can not be its name, and UnknownHook."""
        try:
            return self._event_specs[hook]
        except (KeyError, TypeError):
            spec = self.spec_for(check_hook_name(hook))
            _remember(self._event_specs, hook, spec)
            return spec

    def handlers_of_spec(self, spec: HookSpec) -> list[HandlerRecord]:
        """Return the handlers that no event could reach any more without this spec."""
        others = [name for name in self.hooks if name != spec.name]
        return [record for record in self.handlers if self._depends(record.hook, spec.name, others)]

    def _depends(self, hook: str, name: str, others: Sequence[str]) -> bool:
        if not globs.is_glob(hook):
            return globs.most_specific(self.hooks, hook) == name
        return _overlap(hook, name) and not any(_overlap(hook, other) for other in others)

    def validate(self, hook: str, payload: Mapping[str, Any]) -> None:
        """Raise InvalidPayload, with the JSON path in its details, unless the payload keeps to the hook's schema."""
        spec = self.spec_for(hook)
        schema = self._schemas.get(spec.name)
        if schema is None:
            schema = self._schemas[spec.name] = PayloadSchema(spec.schema)
        schema.check(hook, payload)

    def check_registrable(self, hook: str) -> None:
        """
        Raise UnknownHook unless a handler on that hook name could ever run.

        A glob needs to match a known hook, or to overlap with a known glob as far as that can be seen.
        """
        if not globs.is_glob(hook):
            self.spec_for(hook)
        elif hook not in self.hooks and not any(_overlap(hook, name) for name in self.hooks):
            raise UnknownHook.named(hook, self.hooks)

    def match(self, event: Event, payload: Mapping[str, Any] | None = None) -> list[HandlerRecord]:
        """
        Return the handlers that the event runs, paused ones too (their runs wait).

        `payload` spares parsing `event.payload_json` again.
        """
        candidates = self._candidates_for(event.hook)
        if not candidates:
            return []
        chosen = []
        for candidate in candidates:
            if event.tags and candidate.tags and candidate.tags.isdisjoint(event.tags):
                continue
            if candidate.accepts is not None:
                if payload is None:
                    payload = json.loads(event.payload_json)
                if not candidate.accepts(payload):
                    continue
            chosen.append(candidate.record)
        return chosen

    def wanted(self, hook: str) -> bool:
        """
        Tell whether any handler or trigger would look at an event of that hook.

        What happens very often (`QUIET_HOOKS`) is told of only then.
        """
        return bool(self._candidates_for(hook)) or bool(self.triggers.candidates(hook))

    def explain(self, event: Event, handler: HandlerRecord) -> list[Reason]:
        """Say step by step why the event does or does not run the handler as it is now."""
        return [_hook_reason(event, handler), _tags_reason(event, handler), _filter_reason(event, handler)]

    def _candidates_for(self, hook: str) -> tuple[_Candidate, ...]:
        found = self._candidates.get(hook)
        if found is None:
            fitting = (record for record in self.handlers if _hears(record.hook, hook))
            found = tuple(_candidate(record) for record in fitting)
            _remember(self._candidates, hook, found)
        return found


def _remember(cache: dict[str, Any], name: str, value: Any) -> None:
    if len(cache) >= _MAX_CACHED_HOOKS:
        cache.clear()
    cache[name] = value


def _candidate(record: HandlerRecord) -> _Candidate:
    pattern = record.current.options.filter
    accepts: Callable[[Any], bool] | None = None
    if pattern is not None:
        try:
            accepts = compile_filter(pattern)
        except FilterError:
            # Checked at registration; one stored by another release must not stop the hook's other handlers.
            accepts = _nothing
    return _Candidate(record, frozenset(record.current.tags), accepts)


def _hears(pattern: str, hook: str) -> bool:
    return globs.names(pattern, hook) if hook in QUIET_HOOKS else globs.matches(pattern, hook)


def _nothing(_payload: Any) -> bool:
    return False


def _overlap(left: str, right: str) -> bool:
    if globs.matches(left, right) or globs.matches(right, left):
        return True
    heads = [name[: globs.specificity(name)[1]] for name in (left, right)]
    return globs.is_glob(right) and (heads[0].startswith(heads[1]) or heads[1].startswith(heads[0]))


def _hook_reason(event: Event, handler: HandlerRecord) -> Reason:
    ok = _hears(handler.hook, event.hook)
    matches = globs.matches(handler.hook, event.hook)
    if matches and not ok:
        text = f"events of {event.hook!r} go only to handlers whose hook names it, as {event.hook!r} does"
        return Reason(check="hook", ok=False, text=f"the handler's hook is {handler.hook!r}; {text}")
    verb = "matches" if ok else "does not match"
    return Reason(check="hook", ok=ok, text=f"the handler's hook {handler.hook!r} {verb} the event's {event.hook!r}")


def _tags_reason(event: Event, handler: HandlerRecord) -> Reason:
    tags = handler.current.tags
    if not event.tags:
        return Reason(check="tags", ok=True, text="the event has no tags, so it runs all handlers of its hook")
    if not tags:
        return Reason(check="tags", ok=True, text="the handler has no tags, so it takes every event of its hook")
    shared = [tag for tag in tags if tag in event.tags]
    if shared:
        return Reason(check="tags", ok=True, text=f"they share the tags {', '.join(shared)}")
    text = f"the event's tags ({', '.join(event.tags)}) and the handler's ({', '.join(tags)}) have none in common"
    return Reason(check="tags", ok=False, text=text)


def _filter_reason(event: Event, handler: HandlerRecord) -> Reason:
    pattern = handler.current.options.filter
    if pattern is None:
        return Reason(check="filter", ok=True, text="the handler has no filter")
    payload = json.loads(event.payload_json)
    try:
        if compile_filter(pattern)(payload):
            return Reason(check="filter", ok=True, text="the payload matches the handler's filter")
        failing = [key for key, part in pattern.items() if not compile_filter({key: part})(payload)]
    except FilterError as exc:
        return Reason(check="filter", ok=False, text=f"the handler's filter can not be read: {exc.message}")
    return Reason(check="filter", ok=False, text=f"the payload does not match the filter at: {', '.join(failing)}")


class CatalogueCache:
    """
    Hands out the present catalogue; it is read again when the store's revision has moved.

    Ask for it before changing hooks or handlers in the same transaction: what is read is shared with others.
    `event_clock` tells the present time of events and streams while a recorded day is played, and a playback into the
    store comes before it; leases, retries and retention go by the world's all the same.
    """

    def __init__(
        self, store: Store, *, compile_trigger: Compile | None = None, event_clock: Clock | None = None
    ) -> None:
        self._store = store
        self._compile = compile_trigger
        self.event_clock = event_clock
        self.tally = Tally(store)
        self._lock = threading.Lock()
        self._catalogue: Catalogue | None = None

    def current(self, tx: Tx) -> Catalogue:
        """Return the catalogue as this transaction sees it."""
        revision = tx.handlers.revision()
        catalogue = self._catalogue
        if catalogue is None or catalogue.revision != revision:
            catalogue = Catalogue(
                revision=revision,
                hooks=tx.hooks.all(),
                handlers=tx.handlers.live(),
                triggers=TriggerSet(tx.triggers.live(), self._compile),
                tally=self.tally,
                event_clock=self.event_clock,
                playing=tx.playback.get() is not None,
            )
            with self._lock:
                self._catalogue = catalogue
        state = tx.playback.get() if catalogue.playing else None
        return catalogue if state is None else catalogue.at(state.at_us)

    def latest(self) -> Catalogue:
        """Return the catalogue as it is now, in a transaction of its own."""
        with self._store.read() as tx:
            return self.current(tx)
