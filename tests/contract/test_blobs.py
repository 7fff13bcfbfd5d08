"""Every Blobs: bytes are there whole or not at all."""

from __future__ import annotations

import hashlib
import time

import pytest

from eventproc.blobs import FileBlobs, MemoryBlobs
from eventproc.errors import InvalidInput, NotFound, TooLarge

CODE = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32
MAX = 1 << 20


@pytest.fixture(params=["memory", "file"])
def blobs(request, tmp_path):
    return MemoryBlobs() if request.param == "memory" else FileBlobs(tmp_path / "files")


def content(blobs, code=CODE):
    with blobs.open(code) as file:
        return file.read()


def later_us():
    return time.time_ns() // 1000 + 10_000_000


def test_what_was_put_can_be_read_back_with_its_size_and_digest(blobs):
    data = b"\x00\xff" * 5000
    assert blobs.put(CODE, [data[:3000], b"", data[3000:]], max_bytes=MAX) == (10_000, hashlib.sha256(data).hexdigest())
    assert content(blobs) == data


def test_an_empty_file_is_a_file(blobs):
    assert blobs.put(CODE, [], max_bytes=MAX) == (0, hashlib.sha256(b"").hexdigest())
    assert content(blobs) == b""


def test_a_file_of_exactly_the_limit_fits(blobs):
    assert blobs.put(CODE, [b"x" * 100], max_bytes=100)[0] == 100


def test_a_file_over_the_limit_is_refused_and_leaves_nothing(blobs):
    with pytest.raises(TooLarge, match="100 bytes"):
        blobs.put(CODE, [b"x" * 60, b"x" * 60], max_bytes=100)
    with pytest.raises(NotFound):
        blobs.open(CODE)
    assert list(blobs.codes(older_than_us=later_us())) == []


def test_a_source_that_breaks_leaves_nothing(blobs):
    def chunks():
        yield b"half"
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        blobs.put(CODE, chunks(), max_bytes=MAX)
    with pytest.raises(NotFound):
        blobs.open(CODE)


def test_a_broken_replacement_leaves_the_old_bytes(blobs):
    blobs.put(CODE, [b"old"], max_bytes=MAX)
    with pytest.raises(TooLarge):
        blobs.put(CODE, [b"newer"], max_bytes=4)
    assert content(blobs) == b"old"


def test_unknown_codes_are_not_found(blobs):
    with pytest.raises(NotFound, match=CODE):
        blobs.open(CODE)
    assert blobs.delete(CODE) is False


@pytest.mark.parametrize(
    "code", ["", "..", "../../etc/passwd", "A" * 32, "0" * 31, "0" * 33, "0" * 31 + "/", CODE + "\n"]
)
def test_a_code_that_is_none_is_never_taken_for_a_path(blobs, code):
    with pytest.raises(InvalidInput):
        blobs.put(code, [b"x"], max_bytes=MAX)
    with pytest.raises(NotFound):
        blobs.open(code)
    assert blobs.delete(code) is False


def test_deleted_is_gone(blobs):
    blobs.put(CODE, [b"x"], max_bytes=MAX)
    assert blobs.delete(CODE) is True
    assert blobs.delete(CODE) is False
    with pytest.raises(NotFound):
        blobs.open(CODE)


def test_a_file_that_is_open_stays_readable_when_deleted(blobs):
    blobs.put(CODE, [b"still here"], max_bytes=MAX)
    with blobs.open(CODE) as file:
        blobs.delete(CODE)
        assert file.read() == b"still here"


def test_codes_lists_those_stored_before(blobs):
    blobs.put(CODE, [b"x"], max_bytes=MAX)
    blobs.put(OTHER, [b"y"], max_bytes=MAX)
    assert sorted(blobs.codes(older_than_us=later_us())) == sorted([CODE, OTHER])
    assert list(blobs.codes(older_than_us=time.time_ns() // 1000 - 60_000_000)) == []


def test_codes_may_be_deleted_while_they_are_listed(blobs):
    for number in range(20):
        blobs.put(f"{number:032x}", [b"x"], max_bytes=MAX)
    for code in blobs.codes(older_than_us=later_us()):
        assert blobs.delete(code)
    assert list(blobs.codes(older_than_us=later_us())) == []
