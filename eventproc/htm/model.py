"""The models of scalar metrics: members (temporal memories), streams, or both, behind `learn_one` and `score_one`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from eventproc.htm import blob, dice, foresight, kernels, memory, pooler, records, streams
from eventproc.htm.blob import Arrays, StateError
from eventproc.htm.parameters import NAMED, Parameters, named
from eventproc.htm.reading import Reading, from_row
from eventproc.htm.records import When

_DTYPES = {
    "owner": np.int32,
    "size": np.int16,
    "used": np.int64,
    "source": np.uint16,
    "permanence": np.int16,
    "segments": np.uint16,
    "active": np.uint8,
    "winners": np.int32,
    "tally": np.int64,
    "rng": np.uint64,
    "connected": np.int16,
    "potential": np.int16,
    "matching": np.int32,
    "before": np.uint8,
    "earlier": np.int32,
    "mark": np.uint8,
    "best": np.int32,
}
_BY_SEGMENT = ("owner", "size", "used", "source", "permanence")
_SAVED_MIND = (*_BY_SEGMENT, "active", "winners", "tally", "rng", "frame", "raws", "averages", "moments")
_SAVED_WATCH = ("recent", "bounds", "season", "coded", "unit", "reported", "clock", "pending")
_SAVED_ORACLE = ("weights", "actual", "counts", "past")
_COPIED_MIND = ("frame", "raws", "averages", "moments")  # what asking changes
_RING = 64
_EMPTY = np.uint32(0xFFFFFFFF)
_SPARE = 8  # room behind an encoder's bits, the last place holds their number


class AnomalyModel:
    """
    A streaming anomaly model of one metric: statistics and temporal memory together.

    `score_one` asks and changes nothing; `learn_one` learns; `process_one` does both in one pass and explains.
    Scores are 0 (usual) to 1; a value that is NaN, None or infinite is missing: it scores 0 and is not learnt.
    """

    kind: ClassVar[str] = "default"

    def __init__(self, parameters: Parameters | str | None = None, *, timezone: str = "UTC", **changes: Any) -> None:
        base = named(parameters or self.kind) if parameters is None or isinstance(parameters, str) else parameters
        self.parameters = base.changed(**changes)
        self.timezone = timezone
        self._zone = records.zone_named(timezone)
        self._tables = _tables(self.parameters)
        self._state = kernels.State(
            _new_mind(self.parameters), _new_watch(self.parameters), _new_oracle(self.parameters)
        )

    # One record.

    def score_one(self, x: Any, t: When = None) -> float:
        """Score a value as if it came next, and change nothing."""
        return self.ask_one(x, t).score

    def ask_one(self, x: Any, t: When = None) -> Reading:
        """Read a value as if it came next, with the explanation, and change nothing."""
        mind, watch, oracle = self._state
        state = kernels.State(
            mind._replace(**{name: getattr(mind, name).copy() for name in _COPIED_MIND}),
            streams.Watch(*(array.copy() for array in watch)),
            oracle,
        )
        return self._run(x, t, state, learning=0)

    def learn_one(self, x: Any, t: When = None) -> Self:
        """Learn the next value."""
        self._run(x, t, self._state, learning=1)
        return self

    def process_one(self, x: Any, t: When = None) -> Reading:
        """Score the next value and learn it."""
        return self._run(x, t, self._state, learning=1)

    # Many records.

    def process_many(self, values: Sequence[float] | NDArray[Any], times: Any = None) -> NDArray[np.float64]:
        """
        Score and learn many values; the table has one row for each and the columns of `kernels` (SCORE, ...).

        The same numbers as one by one, whatever the batches. Other threads may run meanwhile (the GIL is released),
        but not on this model.
        """
        return self.prepared(values, times)()

    def score_many(self, values: Sequence[float] | NDArray[Any], times: Any = None) -> NDArray[np.float64]:
        """Score and learn many values; only the scores."""
        return self.process_many(values, times)[:, streams.SCORE]

    def readings(self, table: NDArray[np.float64], values: Sequence[float] | NDArray[Any]) -> list[Reading]:
        """Turn rows of `process_many` into readings."""
        steps = self.parameters.predict_steps
        if self.parameters.category:
            pairs = zip(table, values, strict=True)
            return [from_row(row, self._number(x), steps=steps, word=str(records.only(x))) for row, x in pairs]
        return [from_row(row, float(x), steps=steps) for row, x in zip(table, records.numbers(values), strict=True)]

    def prepared(self, values: Sequence[float] | NDArray[Any], times: Any = None) -> Callable[[], NDArray[np.float64]]:
        """Check a batch now and process it when called: in any thread, but one at a time on one model."""
        if self.parameters.category:
            values = [records.category(x) for x in values]
        rows = records.rows(records.numbers(values), times, self._zone)

        def process() -> NDArray[np.float64]:
            out = np.empty((rows.shape[0], self._columns()))
            kernels.run(self._state, self._tables, rows, out, 1)
            return out

        return process

    def _run(self, x: Any, t: When, state: kernels.State, *, learning: int) -> Reading:
        value = self._number(x)
        out = np.empty((1, self._columns()))
        kernels.run(state, self._tables, records.rows([value], [t], self._zone), out, learning)
        word = str(records.only(x)) if self.parameters.category else None
        return from_row(out[0], value, steps=self.parameters.predict_steps, word=word)

    def _number(self, x: Any) -> float:
        return records.category(x) if self.parameters.category else records.number(x)

    def _columns(self) -> int:
        return streams.COLUMNS + 2 * len(self.parameters.predict_steps)

    # State.

    @property
    def seen(self) -> int:
        """Number of records learnt."""
        return int(self._state.watch.clock[streams.SEEN])

    def clone(self, **changes: Any) -> Self:
        """Make an untrained model of the same parameters, or with some changed."""
        return type(self)(self.parameters.changed(**changes), timezone=self.timezone)

    def copy(self) -> Self:
        """Make a model of the same state that lives its own life."""
        return type(self).restored(self._about(), self.arrays())

    def _about(self) -> dict[str, Any]:
        return {"parameters": self.parameters.to_json(), "timezone": self.timezone}

    def live_bytes(self) -> int:
        """Memory the model's own arrays take; poolers shared with other models are not counted."""
        own = [array for name, array in self._state.mind._asdict().items() if name not in ("joined", "order")]
        if self.parameters.pooler_learns:
            own.append(self._state.mind.joined)
        return sum(array.nbytes for array in (*own, *self._state.watch, *self._state.oracle))

    def arrays(self) -> Arrays:
        """Give the arrays that make up the state; the rest is found again from them."""
        mind, watch = self._state.mind._asdict(), self._state.watch._asdict()
        oracle = self._state.oracle._asdict()
        taken = int(mind["tally"][:, memory.SEGMENTS].max(initial=0))
        state: Arrays = {name: mind[name] for name in _SAVED_MIND}
        state |= {name: mind[name][:, :taken] for name in _BY_SEGMENT}
        state["source"], state["permanence"] = _in_order(state["source"], state["permanence"])
        state["active"] = np.packbits(mind["active"], axis=1)
        state["used"] = (mind["tally"][:, memory.STEP, None] - state["used"]).astype(np.int32)
        if self.parameters.pooler_learns:
            state["pooled"] = mind["pooled"] - pooler.shared(self.parameters)[0]
        state |= {name: watch[name] for name in _SAVED_WATCH}
        state["coded"] = watch["coded"][: watch["coded"].size // 2]
        if self.seen >= watch["pending"].shape[0]:
            state["pending"] = watch["pending"][:0]
        if self.parameters.predict_steps:
            state |= {name: oracle[name] for name in _SAVED_ORACLE}
        return state

    def save(self, *, base: bytes | None = None) -> bytes:
        """Save the state; with `base`, an earlier whole blob of this model, only what differs from it."""
        return blob.pack(self.kind, self._about(), self.arrays(), base=base)

    @classmethod
    def load(cls, saved: bytes, *, base: bytes | None = None, checked: bool = False) -> Self:
        """Load a saved state; a difference needs the blob it was made against. `checked` is as in `blob.unpack`."""
        kind, about, arrays = blob.unpack(saved, base=base, checked=checked)
        if kind != cls.kind:
            raise StateError(f"the saved state is of a {kind!r} detector, not of {cls.kind!r}")
        return cls.restored(about, arrays)

    @classmethod
    def restored(cls, about: dict[str, Any], arrays: Arrays) -> Self:
        """Make a model of what `load` has read."""
        try:
            model = cls(Parameters.from_json(about["parameters"]), timezone=about["timezone"])
            model.fill(arrays)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise StateError(f"the saved state does not fit this program: {error}") from error
        return model

    def fill(self, arrays: Arrays) -> None:
        """Take a state over into an untrained model of the same parameters."""
        mind, watch, oracle = self._state
        taken = arrays["owner"].shape[1]
        for name in _BY_SEGMENT:
            getattr(mind, name)[:, :taken] = arrays[name]
        for name in ("winners", "tally", "rng", "frame", "raws", "averages", "moments"):
            getattr(mind, name)[...] = arrays[name]
        mind.used[:, :taken] = mind.tally[:, memory.STEP, None] - arrays["used"]
        mind.active[...] = np.unpackbits(arrays["active"], axis=1, count=mind.active.shape[1])
        for h in range(mind.tally.shape[0]):
            owned = mind.owner[h, : mind.tally[h, memory.SEGMENTS]]
            mind.segments[h] = np.bincount(owned, minlength=mind.segments.shape[1])
        if self.parameters.pooler_learns:
            mind.pooled[...] = pooler.shared(self.parameters)[0] + arrays["pooled"]
            for h in range(mind.pooled.shape[0]):
                mind.joined[h] = pooler.join(mind.pooled[h], self.parameters.pooler_connected)
        for name in ("recent", "bounds", "season", "unit", "reported", "clock"):
            getattr(watch, name)[...] = arrays[name]
        watch.coded[...] = np.concatenate([arrays["coded"], arrays["coded"]])
        watch.pending[: arrays["pending"].shape[0]] = arrays["pending"]
        if self.parameters.predict_steps:
            for name in _SAVED_ORACLE:
                getattr(oracle, name)[...] = arrays[name]
        kernels.wake(self._state, self._tables)


class Statistics(AnomalyModel):
    """The five statistical streams without any temporal memory: some 10 µs per record, for very many series."""

    kind = "statistics"


class HTM(AnomalyModel):
    """The temporal memory alone, with the streaming likelihood."""

    kind = "htm"


def process_models(
    models: Sequence[AnomalyModel],
    batches: Iterable[tuple[Sequence[float] | NDArray[Any], Any]],
    *,
    threads: int = 1,
) -> list[NDArray[np.float64]]:
    """Give each model its batch (values, times); the tables come in the same order; threads really run side by side."""
    work = [model.prepared(values, times) for model, (values, times) in zip(models, batches, strict=True)]
    if threads > 1 and len({id(model) for model in models}) < len(models):
        raise ValueError("a model can not work on two batches at a time: join its batches")
    if threads <= 1 or len(work) <= 1:
        return [one() for one in work]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda one: one(), work))


def _in_order(source: NDArray[Any], permanence: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sort each segment's synapses by their cells; empty places stay behind."""
    keys = (source.astype(np.uint32) << 16) | permanence.view(np.uint16)
    keys[permanence == 0] = _EMPTY
    keys.sort(axis=-1)
    keys[keys == _EMPTY] = 0
    return (keys >> 16).astype(np.uint16), keys.astype(np.uint16).view(np.int16)


def _tables(p: Parameters) -> kernels.Tables:
    """Make the tables of numbers that kernels take."""
    salts = [dice.derived(p.seed, h, 1) for h in range(len(p.buckets))]
    time_bits = p.time_bits if p.time_on else 0
    code = [p.value_bits, p.value_on, time_bits, p.time_on, p.day_on, p.weekend_on]
    delta_bits = p.delta_bits if p.delta_on else 0
    codes = [[*code, salt, delta_bits, p.delta_on, int(p.category)] for salt in salts]
    rules = [p.cells, p.activate, p.match, p.grow, p.initial, p.up, p.down, p.punish, p.connected]
    gains = [p.pooler_up, p.pooler_down, p.pooler_connected]
    half = p.learning // 2
    known = max(0, p.learning - p.learning // kernels.CATCH_UP - 1) if p.waits else 0
    rule = [p.learning, known, half, p.tolerance, p.memory, p.report, p.margin]
    rule += [p.history, p.mean_floor, p.variance_floor, p.soft, p.pad]
    rule += [p.min_resolution, p.resolution or 0.0, float(p.adaptive)]
    spans = [p.variation_span, p.level_span, p.shape_span] if p.streams else [0, 0, 0]
    return kernels.Tables(
        codes=np.array(codes, np.int64).reshape(len(salts), 10),
        rules=np.array(rules, np.int64),
        gains=np.array(gains, np.int64),
        rule=np.array(rule, np.float64),
        spans=np.array(spans, np.int64),
    )


def _new_mind(p: Parameters) -> kernels.Mind:
    members, cells = len(p.buckets), p.columns * p.cells
    room = p.active_columns * p.cells
    sizes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("owner", "size", "used", "connected", "potential", "matching"), (p.segments,)),
        **dict.fromkeys(("source", "permanence"), (p.segments, p.synapses)),
        **dict.fromkeys(("segments", "active", "before"), (cells,)),
        **dict.fromkeys(("winners", "earlier"), (room,)),
        **dict.fromkeys(("mark", "best"), (p.columns,)),
        "tally": (5,),
        "rng": (1,),
    }
    arrays: dict[str, NDArray[Any]] = {name: np.zeros((members, *sizes[name]), kind) for name, kind in _DTYPES.items()}
    arrays["rng"][:, 0] = [dice.derived(p.seed, h, 2) for h in range(members)]
    frame = np.zeros((members, 8))
    frame[:, kernels.BUCKETS] = p.buckets
    if p.category:
        frame[:, kernels.RESOLUTION] = 1.0
    elif p.minimum is not None and p.maximum is not None:
        width = p.maximum - p.minimum if p.maximum > p.minimum else 1.0
        frame[:, kernels.FROM] = p.minimum
        frame[:, kernels.RESOLUTION] = p.resolution or np.maximum(p.min_resolution, width / frame[:, kernels.BUCKETS])
    pooled, joined, order = _poolers(p)
    most = p.value_on + p.time_on + p.day_on + p.weekend_on + p.delta_on + _SPARE
    return kernels.Mind(
        **arrays,
        frame=frame,
        raws=np.zeros((members, kernels.AVERAGED)),
        averages=np.zeros((members, kernels.AVERAGED)),
        moments=np.zeros((members, 3)),
        pooled=pooled,
        joined=joined,
        order=order,
        columns=np.zeros((members + 1, p.active_columns), np.int64),
        bits=np.zeros((members + 1, most), np.int64),
    )


def _poolers(p: Parameters) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.int32]]:
    members = len(p.buckets)
    if members == 0:
        return np.zeros((0, 0, 0), np.int16), np.zeros((0, 0, 0), np.uint8), np.zeros((0, 0), np.int32)
    born = pooler.shared(p)
    return (born[0].copy(), born[1].copy(), born[2]) if p.pooler_learns else born


def _new_watch(p: Parameters) -> streams.Watch:
    lags = p.shape_lags if p.streams else 0
    ring = 1 << (lags + p.shape_span).bit_length() if p.streams else 0
    waiting = p.learning + kernels.CATCH_UP if p.buckets and p.waits else int(p.buckets != () and not p.ranged)
    return streams.Watch(
        recent=np.zeros(_RING),
        bounds=np.zeros((streams.STREAMS, 3)),
        season=np.zeros((2, 48 + 168)),
        coded=np.zeros(2 * ring, np.int32),
        near=np.zeros(lags + 1, np.int64),
        unit=np.zeros(3),
        reported=np.zeros(p.gap),
        clock=np.zeros(2, np.int64),
        pending=np.zeros((waiting, 3)),
    )


def _new_oracle(p: Parameters) -> foresight.Oracle:
    return foresight.new(p.columns, p.active_columns, p.predict_steps, p.predict_classes, p.predict_rate)


__all__ = ["HTM", "NAMED", "AnomalyModel", "Statistics", "process_models"]
