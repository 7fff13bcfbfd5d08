"""Files as blobs: private, and whole or absent when the disk is full or the writer is killed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from eventproc.blobs import FileBlobs
from eventproc.errors import NotFound, Unavailable

CODE = "0123456789abcdef0123456789abcdef"
HALF_WRITTEN = """
import sys, time
from eventproc.blobs import FileBlobs

def chunks():
    yield b"x" * 100_000
    print("half", flush=True)
    time.sleep(600)

FileBlobs(sys.argv[1]).put(sys.argv[2], chunks(), max_bytes=1 << 20)
"""
FULL = """
import resource, signal, sys
from eventproc.blobs import FileBlobs
from eventproc.errors import Unavailable

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    FileBlobs(sys.argv[1]).put(sys.argv[2], [b"x" * 100_000], max_bytes=1 << 20)
except Unavailable as error:
    print(error)
"""


def all_files(directory):
    return [path for path in directory.rglob("*") if path.is_file()]


def test_files_and_directories_are_for_their_owner_alone(tmp_path):
    FileBlobs(tmp_path / "files").put(CODE, [b"secret"], max_bytes=100)
    for path in (tmp_path / "files").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_writer_killed_in_the_middle_leaves_nothing_visible_and_its_remains_are_cleared(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HALF_WRITTEN, tmp_path, CODE], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    blobs = FileBlobs(tmp_path)
    with pytest.raises(NotFound):
        blobs.open(CODE)
    assert len(all_files(tmp_path)) == 1
    assert list(blobs.codes(older_than_us=time.time_ns() // 1000 + 10_000_000)) == []
    assert all_files(tmp_path) == []


def test_a_size_limit_of_the_system_is_reported_and_leaves_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path, CODE], capture_output=True, text=True, check=True)
    assert "the disk is full" in done.stdout
    assert all_files(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_reported_and_leaves_nothing_and_room_lets_it_work_again(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        blobs = FileBlobs(tmp_path)
        with pytest.raises(Unavailable, match="the disk is full"):
            blobs.put(CODE, [b"x" * 1000] * 1000, max_bytes=1 << 21)
        with pytest.raises(NotFound):
            blobs.open(CODE)
        assert all_files(tmp_path) == []
        assert blobs.put(CODE, [b"x" * 1000], max_bytes=1 << 20)[0] == 1000
    finally:
        subprocess.run(["umount", tmp_path], check=True)
