"""
Notifications made into events, and time expressions evaluated as for each event, beside stackdistiller and timex.

stackdistiller's and timex's own code is run in an interpreter of its own; winchester parses the expression anew for
each event, so that is what is measured of timex.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from peers.environment import cache_directory
from table import show

from eventproc.ingress.distiller import Distiller
from eventproc.registry.documents import parse_document
from eventproc.registry.triggers import parse

PEERS = ("stackdistiller==0.12", "timex==0.20.0")
EXPRESSION = "($timestamp + 1d) @ 0h 0m 0s 0us"
NOW_US = 1_425_038_400_000_000
DEFINITIONS = """
- event_type: compute.instance.*
  traits:
    instance_id: {fields: payload.instance_id}
    host: {fields: publisher_id, plugin: {name: split, parameters: {segment: 1, max_split: 1}}}
    memory_mb: {type: int, fields: payload.memory_mb}
    state: {fields: payload.state}
    os_distro: {fields: payload.image_meta.'org.openstack__1__os_distro'}
    launched_at: {type: datetime, fields: payload.launched_at}
    deleted_at: {type: datetime, fields: payload.deleted_at}
"""


def notification(number: int) -> dict[str, object]:
    payload = {
        "instance_id": f"i{number % 100}",
        "memory_mb": 512,
        "state": "active",
        "image_meta": {"org.openstack__1__os_distro": "org.debian"},
        "launched_at": "2015-02-01 10:00:00.000000",
        "deleted_at": "",
    }
    head = {"event_type": "compute.instance.update", "message_id": f"m{number}", "publisher_id": "compute.cell1-c2"}
    return {**head, "timestamp": "2015-02-27 12:00:00.000000", "payload": payload}


def ours(bodies: list[dict[str, object]], count: int) -> dict[str, float]:
    distiller = Distiller(parse_document(DEFINITIONS, name="definitions"))
    began = time.perf_counter()
    for body in bodies:
        distiller.distill(body)
    distilled = len(bodies) / (time.perf_counter() - began)
    began = time.perf_counter()
    for _ in range(count * 100):
        parse(EXPRESSION).at({"timestamp": NOW_US})
    return {"distilled": distilled, "evaluated": count * 100 / (time.perf_counter() - began)}


def peers_python() -> Path:
    home = cache_directory() / f"winchester-{sys.version_info.major}.{sys.version_info.minor}"
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        print(f"installing {', '.join(PEERS)} into {home} ...", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "setuptools<81", *PEERS], check=True)
        (home / "complete").touch()
    return python


def theirs(bodies: list[dict[str, object]], count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        definitions, lines = Path(directory, "definitions.yaml"), Path(directory, "bodies.jsonl")
        definitions.write_text(DEFINITIONS)
        lines.write_text("\n".join(map(json.dumps, bodies)))
        script = Path(__file__).parent / "peers" / "distiller_peer.py"
        command = [peers_python(), script, definitions, lines, EXPRESSION, str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=5000, help="notifications")
    parser.add_argument(
        "--expressions", type=int, default=200, help="evaluations by timex; a hundred times as many here"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    bodies = [notification(number) for number in range(args.n)]
    peer, own = theirs(bodies, args.expressions), ours(bodies, args.expressions)
    labels = {"distilled": "notifications to events", "evaluated": "time expressions, as for each event"}
    rows = [
        {"work": label, "per second": own[key], "original": peer[key], "ratio": own[key] / peer[key]}
        for key, label in labels.items()
    ]
    show("parts of winchester", rows, as_json=args.json)


if __name__ == "__main__":
    main()
