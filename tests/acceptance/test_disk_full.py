"""A full disk: what can not be stored is refused in words, what was accepted stays, and room heals everything."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Served
from waiting import wait_until

from eventproc.errors import EventprocError, Unavailable


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=755", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_events_are_refused_while_the_disk_is_full_and_taken_again_when_there_is_room(serve, small_disk):
    served: Served = serve(data=small_disk / "data")
    conn = served.connect()
    conn.put_hook("work", summary="x", sample={})
    conn.register(lambda db, n, **kw: n, hook="work", name="echo")
    assert conn.wait(conn.emit("work", {"n": 0})["runs"][0])["result"] == 0
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk)
    ballast.write_bytes(b"\0" * (free.f_bavail * free.f_bsize - (256 << 10)))

    accepted: list[tuple[str, int]] = []
    errors: list[EventprocError] = []
    for n in range(1, 200):
        try:
            accepted.append((conn.emit("work", {"n": n, "text": "x" * 20_000}, id=f"event-{n}")["id"], n))
        except EventprocError as error:
            errors.append(error)
            if len(errors) >= 3:
                break
    assert errors, "the disk was never full"
    assert all(isinstance(error, Unavailable) for error in errors)
    assert "full" in errors[0].message
    assert served.process.poll() is None

    ballast.unlink()
    for event_id, n in accepted:

        def succeeded(event_id: str = event_id) -> bool:
            return [run["state"] for run in conn.runs(event=event_id)] == ["succeeded"]

        wait_until(succeeded, timeout_s=90, what=f"the run of event {n}, accepted before the disk was full")
    assert conn.wait(conn.emit("work", {"n": 1000})["runs"][0])["result"] == 1000
