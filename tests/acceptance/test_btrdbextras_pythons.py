"""Handlers pickled by other Pythons and other dills: they run right, or are refused with the reason."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import grpc
import pytest
from btrdbextras_client import environment, find_python
from serving import Served

from eventproc.api.grpc import messages
from eventproc.child.codecheck import RUNNING

pytestmark = [pytest.mark.external_service, pytest.mark.slow]

MAKERS = [
    ("3.8", "0.3.2"),
    ("3.8", "0.4.0"),
    ("3.9", "0.4.1"),
    ("3.10", "0.3.4"),
    ("3.10", "0.4.1"),
    ("3.11", "0.3.2"),
    ("3.11", "0.3.6"),
    ("3.11", "0.4.1"),
    ("3.12", "0.4.1"),
    ("3.13", "0.4.1"),
]
# Each handler with what it gives when called with door="north".
PROGRAM = """
import base64, json, sys
import dill

LIMIT = 3

def trivial(btrdb, **event): return 42

def echo(btrdb, door, **event):
    return door

def loops(btrdb, **event):
    found = []
    for index in range(5):
        if index % 2:
            continue
        found.append(index * index)
    return found

def comprehends(btrdb, door, **event):
    return sorted({letter.upper(): place for place, letter in enumerate(door)}.items())

def tries(btrdb, **event):
    try:
        return event["nothing"]
    except KeyError as error:
        return "caught %s" % error
    finally:
        event.clear()

def manages(btrdb, **event):
    import io
    with io.StringIO("text") as file:
        return file.read()

def closes():
    counts = [0]
    def closing(btrdb, **event):
        counts[0] += 1
        return counts
    return closing

def generates(btrdb, door, **event):
    def each():
        for letter in door:
            yield letter
    return "-".join(each())

def formats(btrdb, door, **event):
    return f"{door!r:>10}|{len(door):03d}"

closing = closes()
blobs = {}
for handler in (trivial, echo, loops, comprehends, tries, manages, closing, generates, formats):
    try:
        blobs[handler.__name__] = base64.b64encode(dill.dumps(handler)).decode()
    except Exception as error:
        print("%s can not be pickled: %r" % (handler.__name__, error), file=sys.stderr)
print(json.dumps(blobs))
"""
RIGHT = {
    "trivial": 42,
    "echo": "north",
    "loops": [0, 4, 16],
    "comprehends": [["H", 4], ["N", 0], ["O", 1], ["R", 2], ["T", 3]],
    "tries": "caught 'nothing'",
    "manages": "text",
    "closing": [1],
    "generates": "n-o-r-t-h",
    "formats": "   'north'|005",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Served:
    served = Served(tmp_path_factory.mktemp("pythons") / "data", EVENTPROC_GRPC="127.0.0.1:0")
    served.start()
    served.connect().put_hook("door.opened", summary="A door was opened.", sample={"door": "north"})
    yield served
    served.close()


def blobs_of(version: str, dill: str, directory: Path) -> dict[str, bytes]:
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} is installed")
    program = directory / "handlers.py"
    program.write_text(PROGRAM)
    maker = environment(python, [f"dill=={dill}"])
    done = subprocess.run([maker, program], capture_output=True, text=True, check=True)
    return {name: base64.b64decode(blob) for name, blob in json.loads(done.stdout).items()}


def register(served: Served, name: str, blob: bytes) -> str | None:
    """Register as btrdbextras does; return the words of a refusal."""
    credentials = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials((served.data / "certs" / "ca.pem").read_bytes()),
        grpc.access_token_call_credentials(served.key),
    )
    request = messages.RegisterRequest(
        registration=messages.Registration(name=name, hook="door.opened", blob=blob, api_key=served.key)
    )
    with grpc.secure_channel(served.endpoints["grpc"], credentials) as channel:
        stub = channel.unary_unary(f"/{messages.SERVICE}/Register")
        try:
            stub(request.SerializeToString(), timeout=120)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return None


@pytest.mark.parametrize(("version", "dill"), MAKERS)
def test_each_handler_runs_right_or_is_refused_with_the_reason(served, tmp_path, version, dill):
    conn = served.connect()
    blobs = blobs_of(version, dill, tmp_path)
    assert len(blobs) > len(RIGHT) / 2
    refusals = {name: register(served, name, blob) for name, blob in blobs.items()}
    accepted = {handler.id: handler for handler in conn.list_handlers()}
    assert {handler.name for handler in accepted.values()} == {name for name, text in refusals.items() if not text}
    runs = conn.emit("door.opened", {"door": "north"})["runs"]
    for run_id in runs:
        run = conn.wait(run_id)
        name = accepted[run["handler_id"]].name
        assert (name, run["state"], run["result"]) == (name, "succeeded", RIGHT[name])
        conn.deregister(run["handler_id"])
    for name, text in refusals.items():
        if text is not None:
            assert text.startswith("INVALID_ARGUMENT: "), (name, text)
            assert f"not that of Python {RUNNING}" in text, (name, text)
            assert f"register it from Python {RUNNING} with dill 0.3.6 or newer" in text, (name, text)
    if (version, dill) == ("3.10", "0.3.4"):  # nothing in such a blob says whose it is
        assert all(version in text for text in refusals.values() if text)
    elif version not in ("3.11", RUNNING) or dill not in ("0.3.2", "0.3.4"):  # who made them is here, and runs them
        assert set(refusals.values()) == {None}
    else:  # such a dill loses where the try blocks of a 3.11 are
        assert {name for name, text in refusals.items() if text} >= {"tries", "manages"} & set(blobs)
        assert {"trivial", "echo", "loops", "closing"} <= {name for name, text in refusals.items() if not text}
