"""
The main job on real input, from beginning to end: `scripts/run --demo`.

1. An archive of COMTRADE records is made: real ones where they could be fetched, else a generated one, and in any case
   a damaged record and a stray file among them.
2. `eventproc serve` is started on a data directory of its own.
3. Three handlers are registered. One analyses the waveforms and uploads a plot, one fails, and one has another tag.
4. The archive is imported with the tag "demo": the first two handlers run, and their mails are written.
5. It is checked that all this happened, and that the third handler did not run.
6. Then samples: a real series goes in through the Graphite port, an anomaly model scores it, a handler mails its
   report, and values, scores and labels are drawn (demo_metrics.py).
"""

# ruff: noqa: ARG001, N803, PLC0415 - handlers are called with the payload's names and import what they need themselves
from __future__ import annotations

import contextlib
import email
import email.policy
import hashlib
import io
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import demo_metrics
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from eventproc import Connection, EventprocError, ep, register
from eventproc.ingress.samples import pack, sample_files

SAMPLES = Path(__file__).parents[1] / ".cache" / "comtrade-samples"
HOOK = "ctingress.on_complete"
PATIENCE_S = 120.0
MAIL_LINES = 30

T = TypeVar("T")
console = Console()


# ---------------------------------------------------------------------------------------------- the handlers


def register_handlers(conn: Connection) -> None:
    """Register three functions for archives that were imported; each runs in a sandbox when its tag is asked for."""

    @register(
        conn=conn,
        name="waveform-report",
        hook=HOOK,
        notify_on_success="analyst@example.com",
        notify_on_failure="oncall@example.com",
        tags=["demo"],
    )
    def waveform_report(db: Any, DataSets: list[dict[str, Any]], File: str, **kwargs: Any) -> str:
        import hashlib
        from pathlib import Path

        import numpy as np
        from matplotlib.figure import Figure

        lines, figure = [], Figure(figsize=(9, 5))
        axes = figure.subplots()
        for dataset in DataSets:
            if not dataset["Success"]:
                lines.append(f"{dataset['Name']} could not be imported: {dataset['Error']}")
                continue
            for item in dataset["Streams"]:
                stream = db.stream_from_uuid(item["Uuid"])
                if stream.tags()["kind"] != "analog":
                    continue
                times, values = db.values(stream, item["StartNs"], item["EndNs"] + 1)
                rms = np.sqrt(np.nanmean(values**2))
                lines.append(
                    f"{dataset['Name']} {stream.name}: {len(values)} samples, rms {rms:.4g} {stream.unit}, "
                    f"peak {np.nanmax(np.abs(values)):.4g} {stream.unit}"
                )
                axes.plot((times - times[0]) / 1e6, values / (rms or 1), label=f"{stream.collection} {stream.name}")
        axes.set(title=f"Waveforms of {File}, each in units of its rms", xlabel="milliseconds")
        figure.savefig("waveforms.png")
        ep.log.info("plotted %d channels", len(axes.lines))
        url = ep.upload_file("waveforms.png", "waveforms.png")
        digest = hashlib.sha256(Path("waveforms.png").read_bytes()).hexdigest()
        return "\n".join([*lines, f"plot: {url}", f"sha256: {digest}"])

    @register(conn=conn, name="fault-locator", hook=HOOK, notify_on_failure="oncall@example.com", tags=["demo"])
    def fault_locator(db: Any, DataSets: list[dict[str, Any]], **kwargs: Any) -> None:
        broken = [dataset["Name"] for dataset in DataSets if not dataset["Success"]]
        raise ValueError(f"I need every record to be whole, and these are not: {', '.join(broken)}")

    @register(conn=conn, name="night-shift", hook=HOOK, notify_on_success="night@example.com", tags=["night"])
    def night_shift(db: Any, **kwargs: Any) -> str:
        return "this must not run: nobody asked for the tag 'night'"


# ---------------------------------------------------------------------------------------------- the archive


def make_archive(path: Path) -> int:
    """Write the archive and return the number of its whole records."""
    real = {file.name: file.read_bytes() for file in sorted(SAMPLES.rglob("sample_*"))} if SAMPLES.is_dir() else {}
    source = real or sample_files()
    files = {}
    for name, content in source.items():
        stem, _, extension = name.rpartition(".")
        if extension == "cff" or {f"{stem}.cfg", f"{stem}.dat"} <= source.keys():
            files[f"records/{name}"] = content
    whole = sum(name.endswith((".cfg", ".cff")) for name in files)
    config, data = sample_files()["fault_ascii.cfg"], sample_files()["fault_ascii.dat"]
    files |= {"damaged/cut_off.cfg": config, "damaged/cut_off.dat": data[: len(data) // 2], "__MACOSX/._stray": b"\0"}
    path.write_bytes(pack(files))
    kind = "real" if real else "generated (the real ones could not be fetched)"
    console.print(f"The archive holds {whole} {kind} records, a damaged one and a stray file.")
    return whole


# ---------------------------------------------------------------------------------------------- the platform


@contextlib.contextmanager
def platform(data: Path) -> Iterator[Connection]:
    """Run `eventproc serve` on a data directory and connect to it; it is stopped at the end."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("EVENTPROC_", "BTRDB_"))}
    environ |= {"EVENTPROC_DATA": str(data)}
    environ |= dict.fromkeys(
        ("EVENTPROC_HTTP", "EVENTPROC_GRAPHITE", "EVENTPROC_GRAPHITE_PICKLE", "EVENTPROC_GRPC"), "127.0.0.1:0"
    )  # any free ports
    data.mkdir(parents=True)
    log = data / "serve.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "eventproc", "serve"],
            env=environ, cwd=data, stdout=subprocess.PIPE, stderr=errors, text=True,
        ) as server,
    ):  # fmt: skip
        try:
            await_ready(server, log)
            endpoint = json.loads((data / "endpoints.json").read_text())["http"]
            key = (data / "admin.key").read_text().strip()
            console.print(f"The platform answers at {endpoint}.")
            with Connection(endpoint, key, timeout=PATIENCE_S) as conn:
                yield conn
        finally:
            server.terminate()
            try:
                status = server.wait(timeout=60)
            except subprocess.TimeoutExpired:
                server.kill()
                raise
    check(status == 0, f"the platform stopped with status {status}:\n{log.read_text()[-3000:]}")


def await_ready(server: subprocess.Popen[str], log: Path) -> None:
    """Wait until the platform says that all its parts answer, and go on reading what it prints."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert server.stdout is not None
        for line in server.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    until = time.monotonic() + PATIENCE_S
    with contextlib.suppress(queue.Empty):
        while line := lines.get(timeout=max(0.0, until - time.monotonic())):
            if line.strip() == "ready":
                return
    raise RuntimeError(f"eventproc serve did not become ready:\n{log.read_text()[-3000:]}")


# ---------------------------------------------------------------------------------------------- looking and checking


def check(truth: object, otherwise: str) -> None:
    """Stop with the reason unless something is as it should be."""
    if not truth:
        raise RuntimeError(otherwise)


def patiently(look: Callable[[], T | None], what: str) -> T:
    """Return what `look` finds, as soon as it finds something."""
    until = time.monotonic() + PATIENCE_S
    while (found := look()) is None:
        check(time.monotonic() < until, f"waited {PATIENCE_S:g} s in vain for {what}")
        time.sleep(0.1)
    return found


def ingest(conn: Connection, archive: Path) -> dict[str, Any]:
    """Send the archive and show how the import gets on."""
    columns = (
        TextColumn("Importing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[name]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("import", total=None, name="")
        return conn.ingest_comtrade(
            archive,
            tags=["demo"],
            progress=lambda step: progress.update(task, completed=step["done"], total=step["total"], name=step["name"]),
        )


def find_mails(folder: Path) -> dict[str, str] | None:
    """Return the mails' texts by their subjects, None while there are fewer than two."""
    mails = {}
    for file in sorted(folder.glob("*.eml")):
        mail = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
        body = mail.get_body(("plain",))
        mails[str(mail["Subject"])] = f"To: {mail['To']}\n\n" + (body.get_content().strip() if body else "")
    return mails if len(mails) >= 2 else None


def show_mails(mails: dict[str, str]) -> None:
    """Print the beginning of each mail; the rest of it is the event's payload and the like."""
    for subject, body in mails.items():
        lines = body.splitlines()
        more = [f"… and {len(lines) - MAIL_LINES} more lines"] if len(lines) > MAIL_LINES else []
        console.print(
            Panel(Text("\n".join(lines[:MAIL_LINES] + more)), title=Text(f"Mail: {subject}"), title_align="left")
        )


def check_plot(conn: Connection, report: str) -> int:
    """Download the plot that the report names: its bytes are those the handler wrote, and it takes a login."""
    said = dict(line.split(": ", 1) for line in report.splitlines()[-2:])
    plot = io.BytesIO()
    conn.download(said["plot"], plot)
    check(hashlib.sha256(plot.getvalue()).hexdigest() == said["sha256"], "the plot is not what the handler uploaded")
    check(plot.getvalue().startswith(b"\x89PNG"), "the plot is no PNG picture")
    try:
        urllib.request.urlopen(said["plot"], timeout=PATIENCE_S).close()
    except urllib.error.HTTPError as error:
        check(error.code == 401, f"without a login the plot's download answers {error.code}")
    else:
        raise RuntimeError("the plot can be downloaded without a login")
    return len(plot.getvalue())


def demonstrate(conn: Connection, folder: Path) -> None:
    """Do the main job once, and check each step of it."""
    whole = make_archive(folder / "records.zip")
    register_handlers(conn)
    handlers = {handler.name: handler for handler in conn.list_handlers()}
    check(len(handlers) == 3, f"three handlers were registered and {len(handlers)} are there")

    result = ingest(conn, folder / "records.zip")
    datasets = result["payload"]["DataSets"]
    check(sum(item["Success"] for item in datasets) == whole, "not all whole records were imported")
    check(len(datasets) == whole + 1, "the damaged record is not reported")

    runs = {run["handler_name"]: run for run in map(conn.wait, result["runs"])}
    check(runs.keys() == {"waveform-report", "fault-locator"}, f"these handlers ran: {', '.join(runs)}")
    report, failed = runs["waveform-report"], runs["fault-locator"]
    check(report["state"] == "succeeded", f"the analysis failed: {report['failure']}")
    check(failed["state"] == "failed", f"the failing handler's run is {failed['state']}")
    check(not conn.runs(handler=handlers["night-shift"].id), "the handler with the other tag ran")

    mails = patiently(lambda: find_mails(folder / "data" / "mail"), "the two mails")
    check(len(mails) == 2, f"two mails were expected, and there are {len(mails)}")
    show_mails(mails)
    plot_size = check_plot(conn, report["result"])

    table = Table(title="What happened")
    table.add_column("step")
    table.add_column("outcome")
    table.add_row("records imported", f"{whole} of {len(datasets)}, the damaged one was reported")
    streams = [stream["Uuid"] for item in datasets for stream in item["Streams"]]
    table.add_row(
        "channels stored", f"{len(streams)}, in {len(set(streams))} series (records of one device share them)"
    )
    table.add_row("event", f"{HOOK} with tag demo, id {result['event_id']}")
    table.add_row("waveform-report", f"succeeded; its plot ({plot_size} bytes) came back as it was uploaded")
    table.add_row("fault-locator", f"failed: {failed['failure']['message']}")
    table.add_row("night-shift", "did not run, as it should: it has another tag")
    table.add_row("mails", f"{len(mails)}, in {folder / 'data' / 'mail'} while this ran")
    console.print(table)


def demonstrate_metrics(conn: Connection, folder: Path) -> None:
    """Show the line from samples to a mail and a plot."""
    happened = demo_metrics.demonstrate(conn, folder, console, patiently)
    console.print(Panel(Text(happened.pop("report")), title="Mail: water-report", title_align="left"))
    table = Table(title="What happened to the samples")
    table.add_column("step")
    table.add_column("outcome")
    for step, outcome in happened.items():
        table.add_row(step, outcome)
    console.print(table)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="eventproc-demo-") as name:
        folder = Path(name)
        try:
            with platform(folder / "data") as conn:
                demonstrate(conn, folder)
                demonstrate_metrics(conn, folder)
        except (EventprocError, RuntimeError, OSError, LookupError, ValueError) as error:
            console.print(Text(f"The demonstration failed: {error}", style="bold red"))
            return 1
    console.print("All of it was checked. `scripts/run` starts the platform to stay.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
