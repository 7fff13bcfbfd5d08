"""Packages from an index of one's own: behind a password, and as source archives."""

from __future__ import annotations

import base64
import contextlib
import io
import tarfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pythons_world import make_wheel

from eventproc.errors import RequirementsError
from eventproc.sandbox.installer import InstallSettings
from eventproc.sandbox.interpreters import RUNNING
from eventproc.sandbox.provider import Provider

USER, PASSWORD = "builder", "s3cr3t-w0rd"
BACKEND = """
import os, zipfile
def _wheel(directory):
    name = "built-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        wheel.writestr("built.py", f"SEEN = {sorted(os.environ)!r}")
        wheel.writestr("built-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: built\\nVersion: 1.0\\n")
        wheel.writestr("built-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("built-1.0.dist-info/RECORD", "")
    return name
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    return _wheel(wheel_directory)
"""


class Private(SimpleHTTPRequestHandler):
    """A static index that wants a password, and notes what it was asked for."""

    def do_GET(self) -> None:
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != expected:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="packages"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def index(root: Path) -> Iterator[str]:
    """Serve the files below `root/simple`; yields host and port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Private, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def private(tmp_path: Path) -> Iterator[str]:
    simple = tmp_path / "served" / "simple"
    make_wheel(simple / "colours", "colours", "1.0", {"colours/__init__.py": "NAME = 'red'\n"})
    (simple / "built").mkdir()
    with tarfile.open(simple / "built" / "built-1.0.tar.gz", "w:gz") as archive:
        project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        project += '[project]\nname = "built"\nversion = "1.0"\n'
        for name, text in (("pyproject.toml", project), ("backend.py", BACKEND), ("PKG-INFO", PKG_INFO)):
            entry = tarfile.TarInfo(f"built-1.0/{name}")
            entry.size, entry.mtime = len(text), int(time.time())
            archive.addfile(entry, io.BytesIO(text.encode()))
    with index(tmp_path / "served") as place:
        yield place


PKG_INFO = "Metadata-Version: 2.1\nName: built\nVersion: 1.0\n"


def provider(root: Path, place: str, *, password: str = PASSWORD, build_sdists: bool = False) -> Provider:
    url = f"http://{USER}:{password}@{place}/simple"
    return Provider(root, settings=InstallSettings(index_url=url, build_sdists=build_sdists, timeout_s=120))


def install(made: Provider, requirement: str) -> Path:
    environment = made.resolve(RUNNING, [requirement])
    made.remember(environment)
    _, modules, let_go = made.modules(RUNNING, environment.digest)
    let_go()
    assert modules.environment is not None
    assert PASSWORD not in environment.lock
    return Path(modules.environment)


def test_packages_come_from_an_index_behind_a_password(tmp_path, private):
    made = provider(tmp_path / "data" / "environments", private)
    assert (install(made, "colours") / "colours" / "__init__.py").read_text() == "NAME = 'red'\n"
    assert made.installer.describe() == f"http://{private}/simple"


@pytest.mark.parametrize("password", ["wr0ng-w0rd", "wr0ng%40w0rd", "wr0ng@w0rd"])
def test_a_wrong_password_is_refused_and_not_told(tmp_path, private, password):
    made = provider(tmp_path / "data" / "environments", private, password=password)
    with pytest.raises(RequirementsError) as refused:
        install(made, "colours")
    assert "colours" in refused.value.message
    assert "wr0ng" not in str(refused.value.message) + str(refused.value.details)
    assert "w0rd" not in made.installer.describe()


def test_a_password_is_not_on_the_command_line(tmp_path, private, monkeypatch):
    """Everybody on the host may read that."""
    seen: list[list[str]] = []
    begin = __import__("subprocess").Popen.__init__

    def watched(self, command, *args, **kwargs):
        seen.append([str(word) for word in command])
        begin(self, command, *args, **kwargs)

    monkeypatch.setattr("subprocess.Popen.__init__", watched)
    install(provider(tmp_path / "data" / "environments", private), "colours")
    assert seen
    assert not [command for command in seen if PASSWORD in " ".join(command)]


def test_a_source_archive_is_built_where_the_operator_permits_it_and_sees_no_secret(tmp_path, private, monkeypatch):
    monkeypatch.setenv("EVENTPROC_SECRET_KEY", "never to be seen")
    refused = provider(tmp_path / "refused" / "environments", private)
    with pytest.raises(RequirementsError, match="built"):
        install(refused, "built")
    found = install(provider(tmp_path / "data" / "environments", private, build_sdists=True), "built")
    assert "EVENTPROC_SECRET_KEY" not in (found / "built.py").read_text()
    assert "PATH" in (found / "built.py").read_text()
