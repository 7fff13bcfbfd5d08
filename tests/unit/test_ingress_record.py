"""COMTRADE records are read with exact times, whatever revision, format and encoding they come in."""

from __future__ import annotations

import contextlib
import datetime as dt
import struct
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.errors import IngressError
from eventproc.ingress import Record, read_cff, read_record
from eventproc.ingress.config import decode_text, parse_config

SECOND = 1_000_000_000
NOON = int(dt.datetime(2020, 6, 11, 12, tzinfo=dt.UTC).timestamp()) * SECOND


def cfg(
    *,
    head: str = "STATION,DEVICE,1999",
    analog: tuple[str, ...] = ("1,VA,A,Line,kV,2,10,0,-32767,32767,1,1,P",),
    status: tuple[str, ...] = ("1,TRIP,,,0",),
    rates: tuple[str, ...] = ("1000,3",),
    start: str = "11/06/2020,12:00:00.000000",
    trigger: str = "11/06/2020,12:00:00.001000",
    form: str = "ASCII",
    tail: tuple[str, ...] = ("1",),
    nrates: int | None = None,
) -> bytes:
    counts = f"{len(analog) + len(status)},{len(analog)}A,{len(status)}D"
    number = str(len(rates) if nrates is None else nrates)
    return "\n".join([head, counts, *analog, *status, "50", number, *rates, start, trigger, form, *tail]).encode()


ROWS = b"1,0,1,0\n2,1000,2,1\n3,2000,-3,0\n"


def values(record: Record) -> dict[str, list[float]]:
    return {series.channel.name: series.values.tolist() for series in record.series()}


def offsets(record: Record) -> list[int]:
    return [time - record.config.start_ns for time in record.times_ns.tolist()]


# ------------------------------------------------------------------------------------------------ formats


def test_ascii_values_are_scaled_and_status_channels_are_series_too() -> None:
    record = read_record(cfg(), ROWS)
    assert values(record) == {"VA": [12.0, 14.0, 4.0], "TRIP": [0.0, 1.0, 0.0]}
    assert record.times_ns.tolist() == [NOON, NOON + 1_000_000, NOON + 2_000_000]
    assert (record.config.station, record.config.device) == ("STATION", "DEVICE")


@pytest.mark.parametrize(
    ("form", "code", "raw", "missing"),
    [("BINARY", "h", 5, -32768), ("BINARY32", "i", 70_000, -(1 << 31)), ("FLOAT32", "f", 2.5, -3.4028234663852886e38)],
)
def test_binary_formats_are_read_and_their_missing_values_are_nan(
    form: str, code: str, raw: float, missing: float
) -> None:
    rows = b"".join(
        struct.pack(f"<II{code}H", i + 1, i * 1000, value, i % 2) for i, value in enumerate((raw, missing, raw))
    )
    got = values(read_record(cfg(form=form), rows))
    assert got["VA"][0] == got["VA"][2] == 2 * raw + 10
    assert np.isnan(got["VA"][1])
    assert got["TRIP"] == [0.0, 1.0, 0.0]


def test_the_format_may_be_written_in_lower_case() -> None:
    assert read_record(cfg(form="ascii"), ROWS).config.format == "ASCII"


def test_status_channels_beyond_sixteen_are_in_the_next_word() -> None:
    status = tuple(f"{i},S{i},,,0" for i in range(1, 19))
    rows = b"".join(struct.pack("<IIhHH", i, 0, 0, 1 << 15, 0b10) for i in (1, 2, 3))
    got = values(read_record(cfg(form="BINARY", status=status), rows))
    assert [name for name, states in got.items() if name.startswith("S") and states[0]] == ["S16", "S18"]


@pytest.mark.parametrize("rows", [b"1,0,99999,0\n2,0,1,1\n3,0, 99999 ,0\n", b"1,0,,0\n2,0,1,1\n3,0, ,0\n"])
def test_missing_ascii_values_are_nan(rows: bytes) -> None:
    got = values(read_record(cfg(), rows))["VA"]
    assert np.isnan(got).tolist() == [True, False, True]


def test_in_1991_missing_values_are_blank_or_ffff() -> None:
    old: dict[str, Any] = {
        "head": "STATION,DEVICE",
        "start": "06/11/20,12:00:00.000000",
        "trigger": "06/11/20,12:00:00",
        "tail": (),
    }
    got = values(read_record(cfg(**old), b"1,0,99999,0\n2,0,,1\n3,0,1,0\n"))["VA"]
    assert got[0] == 2 * 99999 + 10
    assert np.isnan(got[1])
    rows = b"".join(struct.pack("<IIhH", i, 0, value, 0) for i, value in enumerate((-32768, -1, 1), start=1))
    got = values(read_record(cfg(form="BINARY", **old), rows))["VA"]
    assert got[0] == 2 * -32768 + 10
    assert np.isnan(got[1])


def test_windows_line_ends_blank_lines_and_end_of_file_marks_do_no_harm() -> None:
    record = read_record(cfg().replace(b"\n", b"\r\n") + b"\r\n\x1a\x1a", ROWS.replace(b"\n", b"\r\n") + b"\r\n\x1a")
    assert len(record.times_ns) == 3


def test_a_byte_order_mark_and_leading_blank_lines_do_no_harm() -> None:
    assert read_record(b"\xef\xbb\xbf\n" + cfg(), ROWS).config.station == "STATION"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "latin-1", "utf-16"])
def test_names_survive_in_any_usual_encoding(encoding: str) -> None:
    text = cfg(head="Estação Ü,Oscilógrafo,1999").decode()
    config = parse_config(text.encode(encoding))
    assert (config.station, config.device) == ("Estação Ü", "Oscilógrafo")


def test_windows_letters_are_preferred_to_control_codes() -> None:
    assert decode_text("30 kV, Süd, 5 €".encode("cp1252")) == "30 kV, Süd, 5 €"
    assert decode_text(b"\x81") == "\x81"


def test_a_comma_in_the_station_name_is_understood() -> None:
    config = parse_config(cfg(head="North, East,DEVICE,2013", tail=("1", "0,0", "0,0")))
    assert (config.station, config.device) == ("North,East", "DEVICE")


@given(st.binary(max_size=300))
def test_any_bytes_decode(data: bytes) -> None:
    assert isinstance(decode_text(data), str)


# ------------------------------------------------------------------------------------------------ one file


def cff(dat: bytes, kind: str = "ASCII", length: str = "") -> bytes:
    return (
        b"--- file type: CFG ---\r\n" + cfg(form=kind, head="S,D,2013", tail=("1", "0,0", "0,0"))
        + b"\r\n--- file type: INF ---\r\n\r\n--- file type: HDR ---\r\nmany words\r\n"
        + f"--- file type: DAT {kind}{length} ---\r\n".encode() + dat
    )  # fmt: skip


def test_one_file_holds_all_parts() -> None:
    assert values(read_cff(cff(ROWS)))["VA"] == [12.0, 14.0, 4.0]


def test_binary_data_in_one_file_may_look_like_anything() -> None:
    row = struct.Struct("<IIhH")
    rows = b"".join(row.pack(i, 0x0A0D0A0D, 0x2D2D, 1) for i in (1, 2, 3))
    for length in ("", f": {len(rows)}"):
        record = read_cff(cff(rows, "BINARY", length))
        assert values(record)["VA"] == [2 * 0x2D2D + 10] * 3


def test_one_file_without_data_says_so() -> None:
    with pytest.raises(IngressError, match="no DAT part"):
        read_cff(cff(ROWS).partition(b"--- file type: DAT")[0])


# ------------------------------------------------------------------------------------------------ times


def test_times_are_exact_to_the_nanosecond_for_rates_that_do_not_divide_a_second() -> None:
    count = 10_000
    rows = "".join(f"{i},0,1,0\n" for i in range(1, count + 1)).encode()
    record = read_record(cfg(rates=(f"1200.5,{count}",)), rows)
    exact = [int(Fraction(i * SECOND * 2, 2401) + Fraction(1, 2)) for i in range(count)]
    assert offsets(record) == exact


@given(
    st.lists(
        st.tuples(st.fractions(Fraction(1, 100), 10**7, max_denominator=1000), st.integers(1, 30)),
        min_size=1,
        max_size=4,
    )
)
def test_several_rates_follow_each_other_exactly(segments: list[tuple[Fraction, int]]) -> None:
    rates: list[str] = []
    exact: list[int] = []
    last, now = 0, Fraction(0)
    for hertz, samples in segments:
        text = format(float(hertz), ".6f")
        last += samples
        rates.append(f"{text},{last}")
        for _ in range(samples):
            # The first sample is at the start; each later one comes one period of its own segment after the one before.
            now = now + Fraction(SECOND) / Fraction(text) if exact else Fraction(0)
            exact.append(int(now + Fraction(1, 2)))
    rows = "".join(f"{i},0,1,0\n" for i in range(1, last + 1)).encode()
    assert offsets(read_record(cfg(rates=tuple(rates)), rows)) == exact


def test_a_rate_with_many_digits_is_still_exact() -> None:
    rows = "".join(f"{i},0,1,0\n" for i in range(1, 2001)).encode()
    rate = "4799.9999999999999999999"
    got = offsets(read_record(cfg(rates=(f"{rate},2000",)), rows))
    assert got == [int(Fraction(SECOND) / Fraction(rate) * i + Fraction(1, 2)) for i in range(2000)]


def test_gaps_in_the_sample_numbers_are_gaps_in_time() -> None:
    record = read_record(
        cfg(rates=("1000,9",)), b"\n".join(f"{i},0,1,0".encode() for i in (1, 2, 5, 6, 7, 8, 9, 10, 11))
    )
    assert offsets(record)[:3] == [0, 1_000_000, 4_000_000]


def test_sample_numbers_may_begin_anywhere() -> None:
    record = read_record(cfg(), b"0,0,1,0\n1,0,1,0\n2,0,1,0\n")
    assert offsets(record) == [0, 1_000_000, 2_000_000]


def test_samples_without_numbers_follow_each_other() -> None:
    record = read_record(cfg(), b"0,0,1,0\n0,0,1,0\n0,0,1,0\n")
    assert offsets(record) == [0, 1_000_000, 2_000_000]
    assert "not numbered" in record.notes[0]


@pytest.mark.parametrize(
    ("stamps", "start", "multiplier", "expected"),
    [
        ((0, 250, 1000), "11/06/2020,12:00:00.000000", "1", [0, 250_000, 1_000_000]),
        ((0, 250, 1000), "11/06/2020,12:00:00.000000", "10", [0, 2_500_000, 10_000_000]),
        ((0, 250, 1000), "11/06/2020,12:00:00.000000", "0.5", [0, 125_000, 500_000]),
        ((0, 250, 1000), "11/06/2020,12:00:00.000000000", "1", [0, 250, 1000]),
        ((500, 750, 1500), "11/06/2020,12:00:00.000000", "1", [0, 250_000, 1_000_000]),
    ],
)
@pytest.mark.parametrize("nrates", [0, 1])
def test_without_rates_the_stamps_of_the_data_count(
    stamps: tuple[int, ...], start: str, multiplier: str, expected: list[int], nrates: int
) -> None:
    rows = "".join(f"{i},{stamp},1,0\n" for i, stamp in enumerate(stamps, start=1)).encode()
    record = read_record(cfg(rates=("0,3",), nrates=nrates, start=start, tail=(multiplier,)), rows)
    assert offsets(record) == expected


def test_the_start_has_nanoseconds() -> None:
    record = read_record(cfg(start="11/06/2020,12:00:00.123456789"), ROWS)
    assert record.times_ns[0] == NOON + 123_456_789


@pytest.mark.parametrize("fraction", ["", ".", ".0", ".000000000"])
def test_the_fraction_of_a_second_may_be_short_or_missing(fraction: str) -> None:
    assert read_record(cfg(start=f"11/06/2020,12:00:00{fraction}"), ROWS).times_ns[0] == NOON


@pytest.mark.parametrize(
    ("code", "hours"), [("-5h30", -5.5), ("+10h30", 10.5), ("2", 2), ("0", 0), ("x", 0), ("-4t", -4)]
)
def test_the_time_code_of_2013_makes_stamps_utc(code: str, hours: float) -> None:
    record = read_record(cfg(head="S,D,2013", tail=("1", f"{code},{code}", "B,3")), ROWS)
    assert record.times_ns[0] == NOON - int(hours * 3600) * SECOND


def test_last_lines_may_be_missing() -> None:
    for head in ("S,D,1999", "S,D,2013"):
        assert read_record(cfg(head=head, tail=()), ROWS).times_ns[0] == NOON


@pytest.mark.parametrize(
    ("head", "date", "year", "month", "day"),
    [
        ("S,D", "06/11/91", 1991, 6, 11),
        ("S,D", "06/11/05", 2005, 6, 11),
        ("S,D,1991", "06/11/1995", 1995, 6, 11),
        ("S,D", "25/12/1991", 1991, 12, 25),
        ("S,D,1999", "11/06/2020", 2020, 6, 11),
        ("S,D,1999", "06/25/2020", 2020, 6, 25),
        ("S,D,2013", "2020/06/11", 2020, 6, 11),
    ],
)
def test_dates_are_month_first_in_1991_and_day_first_later(
    head: str, date: str, year: int, month: int, day: int
) -> None:
    record = read_record(cfg(head=head, start=f"{date},00:00:00.000000"), ROWS)
    assert record.times_ns[0] == int(dt.datetime(year, month, day, tzinfo=dt.UTC).timestamp()) * SECOND


def test_a_leap_second_is_the_next_second() -> None:
    record = read_record(cfg(start="31/12/2016,23:59:60.500000"), ROWS)
    assert record.times_ns[0] == int(dt.datetime(2017, 1, 1, tzinfo=dt.UTC).timestamp()) * SECOND + SECOND // 2


def test_skew_moves_a_channel() -> None:
    record = read_record(cfg(analog=("1,VA,A,Line,kV,2,10,12.5,-32767,32767,1,1,P",)), ROWS)
    moved, trip = record.series()
    assert (moved.times_ns - trip.times_ns).tolist() == [12_500] * 3


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("config", "rows", "message"),
    [
        ({"form": "BINARY"}, ROWS, "sample 2 of the .dat has number|cut off"),
        ({}, b"1,0,1,0\n2,0,1,0\n", "holds 2 samples and the .cfg announces 3: it seems cut off"),
        ({}, b"", "no samples"),
        ({}, b"1,0,1,0\n2,0,x,0\n3,0,1,0\n", "line 2 of the .dat"),
        ({}, b"1,0,1,0\n2,0,1\n3,0,1,0\n", "line 2 of the .dat has 3 fields and the .cfg's channels need 4"),
        ({}, b"1,0,1,0\n2,0,1,7\n3,0,1,0\n", "line 2 of the .dat: status channel 1 is 7"),
        ({}, b"1,0,1,0\n3,0,1,0\n2,0,1,0\n", "sample 3 of the .dat has number 2 after 3"),
        ({}, b"\x01\x00\x00\x00\x02", "it is a binary file"),
        ({"rates": ("0,3",), "nrates": 0}, b"1,0,1,0\n2,,1,0\n3,9,1,0\n", "sample 2 of the .dat has no time stamp"),
        ({"rates": ("0,3",), "nrates": 0}, b"1,0,1,0\n2,9,1,0\n3,5,1,0\n", "sample 3 of the .dat lies before"),
        ({"analog": ("1,VA,A,Line,kV,two,10,0,0,0",)}, ROWS, "line 3 of the .cfg .*two"),
        ({"status": ("x,TRIP,,,0",)}, ROWS, "line 4 of the .cfg"),
        ({"analog": ("1,VA,A,Line,kV,nan,10,0,0,0",)}, ROWS, "line 3 of the .cfg .*not a finite number"),
        ({"form": "EBCDIC"}, ROWS, "'EBCDIC' is not known"),
        ({"start": "31/02/2020,12:00:00"}, ROWS, "line 8 of the .cfg .*(day is out of|must be in) range"),
        ({"start": "today"}, ROWS, "should look like dd/mm/yyyy"),
        ({"start": "00/00/0000,00:00:00.000000"}, ROWS, "its date is missing"),
        ({"start": "11/06/2020,25:00:00"}, ROWS, "no such time of day"),
        ({"start": "11/06/1500,12:00:00"}, ROWS, "the year 1500"),
        ({"rates": ("-5,3",)}, ROWS, "rate is negative"),
        ({"rates": ("1000",)}, ROWS, "a sampling rate and the number"),
        ({"rates": ("1000,99999999999",)}, ROWS, "more than the limit"),
        ({"rates": ("1e-99,3",)}, ROWS, "too low"),
        ({"nrates": 5000}, ROWS, "between 0 and 1000"),
        ({"tail": ("0",)}, ROWS, "multiplier is not positive"),
        ({"head": "S,D,2013", "tail": ("1", "99,0")}, ROWS, "more than 18 hours"),
        ({"head": "S,D,2013", "tail": ("1", "utc,0")}, ROWS, "time code 'utc'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(config: dict[str, Any], rows: bytes, message: str) -> None:
    with pytest.raises(IngressError, match=message):
        read_record(cfg(**config), rows)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"", "ends after 0 lines"),
        (b"just a file", "is this a .cfg"),
        (b"a,b,1999\n3,1A,1D\n", "are not 3"),
        (b"a,b,1999\n0,0A,0D\n", "no channels"),
        (b"a,b,1999\nmany\n", "numbers of channels"),
        (b"a,b,1999\n999999999,999999999A,0D\n", "limit of 10000"),
        (b"a,b,1999\n2,2A,0D\n1,x,,,V,1,0,0,0,0\n", "before analog channel 2"),
        (b"a,b\0,1999\n", "not a text file"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(config: bytes, message: str) -> None:
    with pytest.raises(IngressError, match=message):
        read_record(config, ROWS)


def test_samples_beyond_the_announced_ones_are_noted() -> None:
    record = read_record(cfg(), ROWS + b"4,3000,1,0\n")
    assert len(record.times_ns) == 3
    assert "1 samples beyond" in record.notes[0]


def test_without_an_announced_number_all_rows_count() -> None:
    assert len(read_record(cfg(rates=("1000,0",)), ROWS).times_ns) == 3


@given(st.data())
def test_a_damaged_record_is_read_or_refused_but_never_breaks_anything_else(data: st.DataObject) -> None:
    config, rows = bytearray(cfg()), bytearray(ROWS)
    for part in (config, rows):
        for _ in range(data.draw(st.integers(0, 3))):
            part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(IngressError):  # any other error fails the test
        record = read_record(bytes(config), bytes(rows[: data.draw(st.integers(0, len(rows)))]))
        for series in record.series():
            assert len(series.times_ns) == len(series.values)
