"""Files of JSON records, in each form they come in, and batches of what comes slowly."""

from __future__ import annotations

import gzip
import io
import json
import queue
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventproc.codec.records import in_batches, open_records
from eventproc.errors import InvalidInput

RECORDS = [{"n": 1, "text": "a\nb"}, {"n": 2, "text": "ü"}]


def lines() -> bytes:
    return "\n\n".join(json.dumps(each, ensure_ascii=False) for each in RECORDS).encode()


def array() -> bytes:
    return b" \n" + json.dumps(RECORDS, indent=1).encode()


def read(path: Path) -> list[tuple[int, object]]:
    with open_records(path) as records:
        return [(number, json.loads(text)) for number, text in records]


@pytest.mark.parametrize(("text", "numbers"), [(lines, [1, 3]), (array, [1, 2])])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda data: b"\xef\xbb\xbf" + data])
@pytest.mark.parametrize("stdin", [False, True])
def test_what_is_read_tells_the_form(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    text: Callable[[], bytes],
    numbers: list[int],
    pack: Callable[[bytes], bytes],
    stdin: bool,
) -> None:
    path = tmp_path / "records.json"  # the name says nothing
    path.write_bytes(pack(text()))
    if stdin:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
        path = Path("-")
    assert read(path) == list(zip(numbers, RECORDS, strict=True))


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]"])
def test_nothing_is_no_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty"
    path.write_bytes(content)
    assert read(path) == []


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b'[{"n": 1}, {"n"', "JSON array"),
        (gzip.compress(b"x" * 1000, mtime=0)[:-5], "can not be read"),
        (gzip.compress(b"x" * 10_000, mtime=0)[:12] + b"broken" * 10, "can not be read"),
    ],
    ids=["array", "end", "middle"],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=word) as caught, open_records(path) as records:
        list(records)
    assert str(path) in str(caught.value)
    with pytest.raises(InvalidInput, match="can not be read"), open_records(tmp_path / "missing"):
        pass


def test_batches_are_full_where_items_come_quickly() -> None:
    assert list(in_batches(iter(range(7)), size=3, within_s=60)) == [[0, 1, 2], [3, 4, 5], [6]]
    many = [len(batch) for batch in in_batches(iter(range(5001)), size=500, within_s=60)]
    assert many == [500] * 10 + [1]


def test_what_comes_slowly_does_not_wait_for_a_full_batch() -> None:
    pipe: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def written() -> Iterator[int]:
        while (item := pipe.get()) is not None:
            yield item

    batches = in_batches(written(), size=100, within_s=0.01)
    for number in range(3):
        pipe.put(number)
        assert next(batches) == [number]
    pipe.put(None)
    assert list(batches) == []


def test_an_error_comes_behind_what_was_read_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise InvalidInput("no more")

    batches = in_batches(broken(), size=100, within_s=60)
    assert next(batches) == [1]
    with pytest.raises(InvalidInput, match="no more"):
        next(batches)


def test_a_gzipped_file_that_is_cut_off_gives_all_lines_before_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl.gz"
    whole = gzip.compress(b"".join(b'{"n": %d}\n' % (number * 7919) for number in range(400)))
    path.write_bytes(whole[: len(whole) // 2])
    found = []
    with pytest.raises(InvalidInput, match="ended before"), open_records(path) as records:
        found.extend(text for _, text in records)
    assert len(found) > 100
    assert found[:2] == [b'{"n": 0}', b'{"n": 7919}']
