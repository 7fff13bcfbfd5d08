"""Compressed chunks give back what was put in, bit for bit, and say when they were damaged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from eventproc.codec import chunks
from eventproc.errors import DamagedData, InvalidInput

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
BITS = st.integers(0, (1 << 64) - 1)  # every float64 there is, NaN payloads, -0.0 and subnormals among them


def round_trip(times: ArrayLike, values: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    return chunks.decode(chunks.encode(times, values))


@given(st.lists(st.tuples(INT64, BITS), max_size=200))
def test_any_times_and_any_bits_survive(samples: list[tuple[int, int]]) -> None:
    times = np.array([time for time, _ in samples], dtype=np.int64)
    values = np.array([bits for _, bits in samples], dtype=np.uint64).view(np.float64)
    got_times, got_values = round_trip(times, values)
    assert got_times.dtype == np.int64
    assert got_values.dtype == np.float64
    assert got_times.tolist() == times.tolist()
    assert got_values.tobytes() == values.tobytes()


@given(INT64, st.integers(-(1 << 40), 1 << 40), st.integers(0, 300), st.integers(1, 50))
def test_regular_and_nearly_regular_times_survive(first: int, period: int, count: int, every: int) -> None:
    steps = np.full(count, period, dtype=np.int64)
    steps[::every] += 1
    times = (np.int64(first).view(np.uint64) + np.cumsum(steps).view(np.uint64)).view(np.int64)
    got, _ = round_trip(times, np.zeros(count))
    assert got.tolist() == times.tolist()


def test_not_a_number_keeps_its_payload_and_zero_its_sign() -> None:
    values = np.array([0x7FF8000000000001, 0xFFF0DEADBEEF0001, 1 << 63, 0x7FF0000000000000], dtype=np.uint64)
    _, got = round_trip(np.arange(4), values.view(np.float64))
    assert got.view(np.uint64).tolist() == values.tolist()


def test_no_samples_and_one_sample() -> None:
    assert [len(part) for part in round_trip([], [])] == [0, 0]
    times, values = round_trip([5], [2.5])
    assert (times.tolist(), values.tolist()) == ([5], [2.5])


def test_decoded_arrays_can_be_written_to() -> None:
    times, values = round_trip([1, 2], [1.0, 2.0])
    times[0], values[0] = 7, 7.0
    assert times.tolist() == [7, 2]


def test_regular_sampling_costs_almost_nothing() -> None:
    count = chunks.TARGET_SAMPLES
    regular = chunks.encode(np.arange(count) * 1_000_000, np.zeros(count))
    assert len(regular) < 100
    # 1200 Hz does not divide a second into whole nanoseconds: the periods alternate.
    uneven = chunks.encode(np.arange(count) * 1_000_000_000 // 1200, np.zeros(count))
    assert len(uneven) < 200


def test_measured_values_take_less_than_their_raw_size() -> None:
    count = chunks.TARGET_SAMPLES
    wave = np.rint(20_000 * np.sin(np.arange(count) * 2 * np.pi / 96))
    assert len(chunks.encode(np.arange(count), wave)) < count * 8 / 10


SCALES = st.builds(
    chunks.Scale,
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([1.0, 10.0, 1e6]),
)


@given(SCALES, st.lists(st.integers(-(1 << 31), 1 << 31), max_size=100), st.sets(st.integers(0, 99)))
def test_values_of_a_known_scale_survive(scale: chunks.Scale, steps: list[int], missing: set[int]) -> None:
    with np.errstate(all="ignore"):
        values = (np.array(steps, dtype=np.float64) * scale.a + scale.b) / scale.d
    values[[i for i in missing if i < len(values)]] = np.nan
    packed = chunks.encode(np.arange(len(values)), values, scale=scale)
    assert chunks.decode(packed)[1].tobytes() == values.tobytes()


@given(st.lists(BITS, max_size=100), SCALES)
def test_a_wrong_scale_does_no_harm(bits: list[int], scale: chunks.Scale) -> None:
    values = np.array(bits, dtype=np.uint64).view(np.float64)
    packed = chunks.encode(np.arange(len(values)), values, scale=scale)
    assert chunks.decode(packed)[1].tobytes() == values.tobytes()


def test_a_known_scale_saves_most_of_the_space() -> None:
    count = chunks.TARGET_SAMPLES
    steps = np.rint(20_000 * np.sin(np.arange(count) * 2 * np.pi / 96) + np.random.default_rng(1).normal(0, 20, count))
    scale = chunks.Scale(0.000361849, 0.05)
    values = steps * scale.a + scale.b
    values[::1000] = np.nan
    packed = chunks.encode(np.arange(count), values, scale=scale)
    assert len(packed) < count * 1.5
    assert len(packed) < len(chunks.encode(np.arange(count), values)) / 4
    assert chunks.scale_of(packed) == scale


def test_numbers_with_few_decimals_need_no_hint() -> None:
    values = np.round(np.random.default_rng(1).normal(20, 3, chunks.TARGET_SAMPLES), 2)
    packed = chunks.encode(np.arange(len(values)), values)
    assert len(packed) < len(values) * 2
    assert chunks.decode(packed)[1].tobytes() == values.tobytes()


@given(st.data())
def test_a_changed_byte_is_noticed(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 50))
    packed = bytearray(chunks.encode(np.arange(count) ** 2, np.linspace(0, 1, count)))
    position = data.draw(st.integers(0, len(packed) - 1))
    packed[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedData, match="a chunk of samples is damaged"):
        chunks.decode(bytes(packed))


@given(st.data())
def test_a_cut_off_chunk_is_noticed(data: st.DataObject) -> None:
    packed = chunks.encode(np.arange(40) ** 2, np.linspace(0, 1, 40))
    with pytest.raises(DamagedData, match="damaged"):
        chunks.decode(packed[: data.draw(st.integers(0, len(packed) - 1))])


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedData, match="damaged"):
        chunks.decode(data)


def test_a_version_from_the_future_is_named() -> None:
    packed = bytearray(chunks.encode([1], [1.0]))
    packed[3] = 9
    with pytest.raises(DamagedData, match="version 9 is not known"):
        chunks.decode(bytes(packed))


def test_arrays_of_unequal_length_are_refused() -> None:
    with pytest.raises(InvalidInput, match="equal length"):
        chunks.encode([1, 2], [1.0])


def test_too_many_samples_are_refused() -> None:
    too_many = chunks.MAX_SAMPLES + 1
    with pytest.raises(InvalidInput, match="at most"):
        chunks.encode(np.zeros(too_many, dtype=np.int64), np.zeros(too_many))


def test_a_header_that_promises_more_than_is_there_allocates_nothing() -> None:
    """A chunk with a good checksum whose compressed part holds another number of samples than its header says."""
    import struct
    import zlib

    packed = bytearray(chunks.encode([1, 2, 3], [1.0, 2.0, 3.0]))
    packed[8:12] = struct.pack("<I", chunks.MAX_SAMPLES)
    packed[28:32] = bytes(4)
    packed[28:32] = struct.pack("<I", zlib.crc32(bytes(packed)))
    with pytest.raises(DamagedData, match="wrong length"):
        chunks.decode(bytes(packed))
