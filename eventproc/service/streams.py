"""Streams: looking at them, sending them through again, deleting them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from eventproc.abc import Tx
from eventproc.errors import InvalidInput, NotFound
from eventproc.model import Event, Role, Stream, StreamFilter, StreamState, TriggerRecord, User
from eventproc.service.context import ServiceContext
from eventproc.service.rights import require, require_owner

CHUNK = 500
RESETTABLE = (StreamState.ERROR, StreamState.EXPIRE_ERROR, StreamState.COMMIT_ERROR)


@dataclass(slots=True)
class StreamsChanged:
    """What a change of many streams came to."""

    ids: list[int] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)


class Streams:
    """Use cases around streams."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def page(
        self,
        principal: User,
        which: StreamFilter,
        *,
        after: int | None = None,
        limit: int = 100,
        newest_first: bool = True,
    ) -> list[Stream]:
        require(principal, Role.VIEWER, "listing streams")
        with self._context.store.read() as tx:
            return tx.streams.page(which, after=after, limit=limit, newest_first=newest_first)

    def counts(self, principal: User) -> dict[StreamState, int]:
        """Return the number of streams in each state but completed."""
        require(principal, Role.VIEWER, "counting streams")
        with self._context.store.read() as tx:
            return tx.streams.counts()

    def get(self, principal: User, stream_id: int, *, events: bool = False) -> tuple[Stream, list[Event]]:
        """Return a stream, with its events by time if they are asked for."""
        require(principal, Role.VIEWER, "reading streams")
        with self._context.store.read() as tx:
            stream = existing_stream(tx, stream_id)
            return stream, tx.streams.events([stream_id])[stream_id] if events else []

    def reset(self, principal: User, which: StreamFilter | Sequence[int]) -> StreamsChanged:
        """
        Send streams in error through their pipeline again, with its present version.

        Of a stream in commit_error only the commits are repeated, with the version that made its events.
        """
        return self._change(principal, which, "stream.reset", RESETTABLE)

    def delete(self, principal: User, which: StreamFilter | Sequence[int]) -> StreamsChanged:
        """Delete streams that no run works on; their events stay."""
        return self._change(principal, which, "stream.delete", ())

    def _change(
        self, principal: User, which: StreamFilter | Sequence[int], action: str, states: tuple[StreamState, ...]
    ) -> StreamsChanged:
        require(principal, Role.DEVELOPER, "changing streams")
        total = StreamsChanged()
        for ids in self._chunks(which, states):
            with self._context.store.begin() as tx:
                allowed = self._allowed(tx, principal, ids, total)
                done = self._reset(tx, allowed) if action == "stream.reset" else tx.streams.delete(list(allowed))
                total.ids += sorted(done)
                for stream_id, stream in allowed.items():
                    if stream_id not in done:
                        total.refused.append((stream_id, f"stream {stream_id} is {stream.state.label}"))
                if done:
                    detail = {"count": len(done), "ids": sorted(done)[:100]}
                    self._context.audit(tx, principal, action, "streams", **detail)
                self._context.wake_after(tx, "streams", "runs")
        return total

    def _reset(self, tx: Tx, streams: dict[int, Stream]) -> set[int]:
        now_us = self._context.clock.now_us()
        done = tx.streams.reset(list(streams), now_us=now_us)
        uncommitted = {
            stream.run_id: stream.id
            for stream in streams.values()
            if stream.state is StreamState.COMMIT_ERROR and stream.run_id is not None
        }
        if uncommitted:
            requeued = tx.runs.requeue(list(uncommitted), now_us=now_us, current=False)
            tx.streams.follow(sorted(requeued), now_us=now_us)
            done |= {uncommitted[run_id] for run_id in requeued}
        return done

    def _chunks(self, which: StreamFilter | Sequence[int], states: tuple[StreamState, ...]) -> Iterator[Sequence[int]]:
        if not isinstance(which, StreamFilter):
            ids = list(dict.fromkeys(which))
            yield from (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))
            return
        if which == StreamFilter():
            raise InvalidInput("say which streams: by ids, trigger, state, traits or time")
        wanted = which if which.states or not states else _with_states(which, states)
        after = None
        while True:
            with self._context.store.read() as tx:
                found = tx.streams.page(wanted, after=after, limit=CHUNK)
            if not found:
                return
            yield [stream.id for stream in found]
            after = found[-1].id

    def _allowed(self, tx: Tx, principal: User, ids: Sequence[int], result: StreamsChanged) -> dict[int, Stream]:
        allowed: dict[int, Stream] = {}
        triggers: dict[int, TriggerRecord | None] = {}
        for stream_id in ids:
            stream = tx.streams.get(stream_id)
            if stream is None:
                result.refused.append((stream_id, f"there is no stream {stream_id}"))
                continue
            if stream.trigger_id not in triggers:
                triggers[stream.trigger_id] = tx.triggers.get(stream.trigger_id)
            trigger = triggers[stream.trigger_id]
            if trigger is not None:
                owner = tx.users.get(trigger.owner_id)
                require_owner(
                    principal,
                    owner_id=trigger.owner_id,
                    owner=owner.name if owner else trigger.created_by,
                    thing=f"trigger {trigger.name!r} of stream {stream_id}",
                )
            allowed[stream_id] = stream
        return allowed


def _with_states(which: StreamFilter, states: tuple[StreamState, ...]) -> StreamFilter:
    return StreamFilter(
        name=which.name,
        states=states,
        distinguished_by=which.distinguished_by,
        older_than_us=which.older_than_us,
        younger_than_us=which.younger_than_us,
    )


def existing_stream(tx: Tx, stream_id: int) -> Stream:
    stream = tx.streams.get(stream_id)
    if stream is None:
        raise NotFound(f"there is no stream {stream_id} (or not any more)", stream=stream_id)
    return stream
