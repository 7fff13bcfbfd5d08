"""A private directory is measured and emptied, whatever its handler did to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eventproc.child import scratch


def nest(path: Path, depth: int, name: str = "d") -> None:
    """Make directories one in the other, deeper than a path can name."""
    at = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "private"
    made.mkdir()
    return made


def test_what_is_nested_deeper_than_paths_and_recursion_go_is_removed(directory):
    nest(directory, 1500)
    nest(directory / "d", 30, "x" * 250)
    scratch.remove(str(directory))
    assert not directory.exists()


def test_names_that_removing_would_choose_are_no_obstacle(directory):
    for name in ("1", "2", "3"):
        nest(directory / "a" if (directory / "a").exists() else directory, 2, name)
    (directory / "4").write_text("a file")
    (directory / "5").mkdir()
    scratch.empty(str(directory))
    assert list(directory.iterdir()) == []


def test_closed_directories_are_opened_and_removed(directory):
    closed = directory / "closed" / "below"
    closed.mkdir(parents=True)
    (closed / "file").write_text("x")
    for path in (closed, closed.parent, directory):
        path.chmod(0o300)
    assert scratch.measure(str(directory), 100, 1 << 20)[0] == 3
    closed.chmod(0)
    scratch.remove(str(directory))
    assert not directory.exists()


def test_links_are_not_followed(directory, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "kept").write_text("x" * 100_000)
    other.chmod(0o500)
    (directory / "link").symlink_to(other)
    assert scratch.measure(str(directory), 100, 1 << 20)[0] == 1
    scratch.remove(str(directory))
    assert (other / "kept").exists()
    assert other.stat().st_mode & 0o777 == 0o500
    other.chmod(0o700)


def test_files_are_counted_with_their_blocks_and_those_without_names_too(directory):
    (directory / "file").write_bytes(b"x" * 100_000)
    files, size = scratch.measure(str(directory), 100, 1 << 20)
    assert files == 1
    assert 100_000 <= size < 200_000
    with (directory / "gone").open("wb") as file:
        file.write(b"x" * 50_000)
        file.flush()
        (directory / "gone").unlink()
        assert 50_000 <= scratch.unnamed(str(directory), os.getpid()) < 100_000


def test_what_is_too_deep_to_be_looked_at_counts_as_too_much(directory):
    nest(directory, scratch.MAX_DEPTH + 5)
    assert scratch.measure(str(directory), 10_000, 1 << 20)[0] == 10_001
