"""Streams: looking at them, sending them through again, deleting them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from eventproc.abc import Tx
from eventproc.errors import Conflict, Forbidden, NotFound
from eventproc.model import Event, Role, Stream, StreamFilter, StreamState, User
from eventproc.service.changing import CHUNK, Changed, check_choice, chunks, pages
from eventproc.service.context import ServiceContext
from eventproc.service.rights import require
from eventproc.service.triggers import require_trigger_owner

RESETTABLE = (StreamState.ERROR, StreamState.EXPIRE_ERROR, StreamState.COMMIT_ERROR)


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

    def reset(self, principal: User, which: StreamFilter | Sequence[int], *, everything: bool = False) -> Changed:
        """
        Send streams in error through their pipeline again, with its present version; with `everything` all those.

        Of a stream in commit_error only the commits are repeated, with the version that made its events.
        """
        return self._change(principal, which, "stream.reset", RESETTABLE, everything=everything)

    def delete(self, principal: User, which: StreamFilter | Sequence[int], *, everything: bool = False) -> Changed:
        """Delete streams that no run works on, with `everything` all those; their events stay."""
        return self._change(principal, which, "stream.delete", (), everything=everything)

    def _change(
        self,
        principal: User,
        which: StreamFilter | Sequence[int],
        action: str,
        states: tuple[StreamState, ...],
        *,
        everything: bool,
    ) -> Changed:
        require(principal, Role.DEVELOPER, "changing streams")
        restricted = which != StreamFilter()
        check_choice("streams", "ids, trigger, state, traits or time", restricted=restricted, everything=everything)
        total = Changed()
        for ids in self._chunks(which, states):
            with self._context.store.begin() as tx:
                total.merge(self._change_chunk(tx, principal, ids, action))
                self._context.wake_after(tx, "streams", "runs")
        return total

    def _change_chunk(self, tx: Tx, principal: User, ids: Sequence[int], action: str) -> Changed:
        result = Changed()
        allowed = self._allowed(tx, principal, ids, result)
        done = self._reset(tx, allowed) if action == "stream.reset" else tx.streams.delete(list(allowed))
        result.add(sorted(done))
        for stream_id, stream in allowed.items():
            if stream_id not in done:
                result.refuse(stream_id, Conflict(f"stream {stream_id} is {stream.state.label}", stream=stream_id))
        if done:
            detail = {"count": len(done), "ids": sorted(done)[:100]}
            self._context.audit(tx, principal, action, "streams", **detail)
        return result

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
            return chunks(which)
        wanted = which if which.states or not states else replace(which, states=states)

        def read(after: int | None) -> list[Stream]:
            with self._context.store.read() as tx:
                return tx.streams.page(wanted, after=after, limit=CHUNK)

        return pages(read)

    def _allowed(self, tx: Tx, principal: User, ids: Sequence[int], result: Changed) -> dict[int, Stream]:
        """Return the streams whose triggers the principal may change; say why the others are not."""
        verdicts: dict[int, Forbidden | None] = {}  # by trigger
        allowed: dict[int, Stream] = {}
        for stream_id in ids:
            stream = tx.streams.get(stream_id)
            if stream is None:
                result.refuse(stream_id, NotFound(f"there is no stream {stream_id}", stream=stream_id))
                continue
            if stream.trigger_id not in verdicts:
                verdicts[stream.trigger_id] = _verdict(tx, principal, stream)
            why = verdicts[stream.trigger_id]
            if why is None:
                allowed[stream_id] = stream
            else:
                result.refuse(stream_id, why)
        return allowed


def _verdict(tx: Tx, principal: User, stream: Stream) -> Forbidden | None:
    trigger = tx.triggers.get(stream.trigger_id)
    if trigger is None:
        return None
    try:
        require_trigger_owner(tx, principal, trigger)
    except Forbidden as error:
        return error
    return None


def existing_stream(tx: Tx, stream_id: int) -> Stream:
    stream = tx.streams.get(stream_id)
    if stream is None:
        raise NotFound(f"there is no stream {stream_id} (or not any more)", stream=stream_id)
    return stream
