"""An archive of COMTRADE records becomes series that can be read back and one event with the documented payload."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import comtrade
import numpy as np
import pytest

import eventproc
from eventproc.abc import Store, Tx
from eventproc.engine import series
from eventproc.engine.clock import ManualClock
from eventproc.errors import EventConflict, IngressError, InvalidInput, UnknownHook
from eventproc.ingress import HOOK, ArchiveLimits, Imported, Progress, import_archive, importer
from eventproc.ingress.archive import Source
from eventproc.ingress.record import read_record
from eventproc.ingress.samples import SAMPLES, START_NS, fault_record, pack, sample_files
from eventproc.registry.catalogue import CatalogueCache
from eventproc.registry.specs import load_specs
from eventproc.store.memory import MemoryStore

ROOT = Path(eventproc.__file__).parents[1]
SAMPLE_RECORDS = ROOT / ".cache" / "comtrade-samples"
NOW_US = 1_800_000_000_123_456

Importer = Callable[..., Imported]


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    memory = MemoryStore()
    specs, errors = load_specs([ROOT / "hooks" / "ctingress.yaml"], source="bundled")
    assert not errors
    with memory.begin() as tx:
        for spec in specs:
            tx.hooks.put(spec, now_us=0, by="test")
    yield memory
    memory.close()


@pytest.fixture
def do_import(store: Store) -> Importer:
    clock, cache = ManualClock(NOW_US), CatalogueCache(store)

    def run(source: Source, *, name: str = "up/records.zip", **more: Any) -> Imported:
        return import_archive(source, name=name, store=store, clock=clock, cache=cache, **more)

    return run


def by_name(imported: Imported) -> dict[str, dict[str, Any]]:
    return {dataset["Name"]: dataset for dataset in imported.payload["DataSets"]}


def uuids(dataset: dict[str, Any]) -> list[str]:
    return [stream["Uuid"] for stream in dataset["Streams"]]


def names(tx: Tx, dataset: dict[str, Any]) -> list[str]:
    rows = [tx.series.get(uuid) for uuid in uuids(dataset)]
    return [row.name for row in rows if row is not None]


# ------------------------------------------------------------------------------------------------ the payload


def test_the_payload_has_exactly_the_documented_shape(do_import: Importer) -> None:
    files = sample_files()
    imported = do_import(pack({f"DFR 2/{name}": content for name, content in files.items()} | {"bad.cfg": b"?"}))
    payload = imported.payload
    assert list(payload) == ["DataSets", "File", "RequestID", "SubmittedAt"]
    assert payload["File"] == "records.zip"
    assert payload["SubmittedAt"] == "2027-01-15T08:00:00.123456Z"
    assert uuid.UUID(payload["RequestID"]).version == 4
    good = by_name(imported)["/DFR 2/fault_ascii.cfg"]
    assert list(good) == ["Error", "Name", "Streams", "Success"]
    assert (good["Error"], good["Success"]) == ("", True)
    assert len(good["Streams"]) == 8
    for stream in good["Streams"]:
        assert list(stream) == ["EndNs", "ProcessedAtNs", "StartNs", "Uuid"]
        assert stream["StartNs"] == START_NS
        assert stream["EndNs"] == START_NS + ((SAMPLES - 1) * 10**9 * 2 // 4800 + 1) // 2
        assert stream["ProcessedAtNs"] == NOW_US * 1000
        assert uuid.UUID(stream["Uuid"]).version == 5
    bad = by_name(imported)["/bad.cfg"]
    assert bad == {"Error": "its data file bad.dat is missing", "Name": "/bad.cfg", "Streams": [], "Success": False}


def test_the_event_is_accepted_with_its_tags(do_import: Importer, store: Store) -> None:
    imported = do_import(pack(sample_files()), tags=["line-1", "demo"])
    with store.read() as tx:
        event = tx.events.get(imported.accepted.id)
    assert event is not None
    assert (event.hook, event.tags, event.id) == (HOOK, ("line-1", "demo"), imported.payload["RequestID"])
    assert json.loads(event.payload_json) == imported.payload


def test_samples_are_read_back_as_they_were_recorded(do_import: Importer, store: Store) -> None:
    imported = do_import(pack(sample_files()))
    record = fault_record()
    with store.read() as tx:
        (row,) = tx.series.find(name="IA", collection="comtrade/Demo Substation/Relay 7")
        times, values = series.values(tx, row.uuid, START_NS, START_NS + 10**9)
    assert row.uuid in uuids(by_name(imported)["/fault_ascii.cfg"])
    assert (row.unit, row.tags["phase"], row.tags["kind"]) == ("A", "A", "analog")
    assert values.tolist() == (record.amperes["IA"] * 0.5).tolist()
    assert times[1] - times[0] == 208_333


# ------------------------------------------------------------------------------------------------ identity


def test_the_same_file_again_changes_nothing(do_import: Importer, store: Store) -> None:
    first, second = do_import(pack(sample_files())), do_import(pack(sample_files()), name="another.zip")
    for name, dataset in by_name(first).items():
        assert uuids(by_name(second)[name]) == uuids(dataset)
        with store.read() as tx:
            assert [series.count(tx, stream) for stream in uuids(dataset)] == [SAMPLES] * 8
    assert first.accepted.id != second.accepted.id


def test_another_record_of_the_device_continues_its_series(do_import: Importer, store: Store) -> None:
    record = fault_record()
    later = record.cfg().replace(b"14/03/2026", b"15/03/2026")
    imported = do_import(
        pack({"1.cfg": record.cfg(), "1.dat": record.ascii(), "2.cfg": later, "2.dat": record.ascii()})
    )
    first, second = (by_name(imported)[name] for name in ("/1.cfg", "/2.cfg"))
    assert uuids(first) == uuids(second)
    with store.read() as tx:
        assert series.count(tx, uuids(first)[0]) == 2 * SAMPLES


def test_devices_stations_and_channels_have_series_of_their_own(do_import: Importer) -> None:
    record = fault_record()
    files = {
        "a.cfg": record.cfg(),
        "b.cfg": record.cfg(device="Relay 9"),
        "c.cfg": record.cfg(station="Elsewhere"),
        "d.cfg": record.cfg(station="", device=""),
        "e.cfg": record.cfg(station="", device=""),
    }
    imported = do_import(pack(files | {name.replace("cfg", "dat"): record.ascii() for name in files}))
    every = [stream for dataset in imported.payload["DataSets"] for stream in uuids(dataset)]
    assert len(every) == len(set(every)) == 5 * 8


def test_channels_of_the_same_name_are_told_apart(do_import: Importer, store: Store) -> None:
    cfg = fault_record().cfg().replace(b"VB,B", b"VA,A").replace(b"VC,C", b",")
    imported = do_import(pack({"a.cfg": cfg, "a.dat": fault_record().ascii()}))
    (dataset,) = imported.payload["DataSets"]
    assert len(set(uuids(dataset))) == 8
    with store.read() as tx:
        assert names(tx, dataset)[:3] == ["VA", "VA #2", "3"]


def test_the_uuids_never_change(do_import: Importer) -> None:
    """Series that were imported by earlier releases must be found again: this value is for ever."""
    imported = do_import(pack(sample_files()))
    assert uuids(by_name(imported)["/fault_ascii.cfg"])[0] == "b607e36a-b798-52e1-9c0c-b59a3061190b"


# ------------------------------------------------------------------------------------------------ bad neighbours


def test_bad_pairs_and_strays_do_not_spoil_the_others(do_import: Importer, store: Store) -> None:
    good = sample_files()
    imported = do_import(
        pack(
            good
            | {
                "cut.cfg": good["fault_ascii.cfg"],
                "cut.dat": good["fault_ascii.dat"][:5000],
                "lonely.cfg": good["fault_ascii.cfg"],
                "orphan.dat": good["fault_ascii.dat"],
                "wrong.cfg": good["fault_ascii.cfg"],
                "wrong.dat": good["fault_binary.dat"],
                "../escape.cfg": good["fault_ascii.cfg"],
                "__MACOSX/._cut.cfg": b"\0\5\26\7",
                ".DS_Store": b"x",
                "notes.txt": b"x",
                "fault_ascii.hdr": b"x",
            }
        )
    )
    errors = {name: dataset["Error"] for name, dataset in by_name(imported).items() if not dataset["Success"]}
    assert "seems cut off" in errors.pop("/cut.cfg")
    assert errors.pop("/lonely.cfg") == "its data file lonely.dat is missing"
    assert "no .cfg" in errors.pop("/orphan.dat")
    assert "binary file" in errors.pop("/wrong.cfg")
    assert "leads out of the archive" in errors.pop("/../escape.cfg")
    assert not errors
    assert {skipped.path for skipped in imported.skipped} == {
        "../escape.cfg",
        "__MACOSX/._cut.cfg",
        ".DS_Store",
        "notes.txt",
    }
    assert [name for name, dataset in by_name(imported).items() if dataset["Success"]] == [
        "/fault_ascii.cfg",
        "/fault_binary.cfg",
    ]
    with store.read() as tx:
        assert len(tx.series.find(limit=100)) == 16


def test_a_refused_data_file_is_named_at_its_record(do_import: Importer) -> None:
    files = sample_files()
    limits = ArchiveLimits(member_bytes=len(files["fault_ascii.dat"]) - 1)
    imported = do_import(pack(files), limits=limits)
    assert "fault_ascii.dat was refused: it has" in by_name(imported)["/fault_ascii.cfg"]["Error"]
    assert by_name(imported)["/fault_binary.cfg"]["Success"]


def test_a_reader_that_breaks_in_an_unforeseen_way_spoils_its_own_record_only(
    do_import: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(cfg: bytes, dat: bytes) -> Any:
        if b"Relay 7" in cfg:
            raise RecursionError("too deep")
        return read_record(cfg, dat)

    monkeypatch.setattr(importer, "read_record", breaks)
    imported = do_import(pack(sample_files()))
    assert [dataset["Success"] for dataset in imported.payload["DataSets"]] == [False, True]
    assert "RecursionError: too deep" in imported.payload["DataSets"][0]["Error"]


def test_letter_case_does_not_keep_a_pair_apart(do_import: Importer) -> None:
    files = sample_files()
    imported = do_import(pack({"Fault.CFG": files["fault_ascii.cfg"], "FAULT.Dat": files["fault_ascii.dat"]}))
    assert by_name(imported)["/Fault.CFG"]["Success"]


def test_records_of_one_name_in_several_folders_are_told_apart(do_import: Importer) -> None:
    files = sample_files()
    imported = do_import(
        pack(
            {
                "a/1.cfg": files["fault_ascii.cfg"],
                "a/1.dat": files["fault_ascii.dat"],
                "b/1.cfg": files["fault_binary.cfg"],
                "b/1.dat": files["fault_binary.dat"],
            }
        )
    )
    assert {name: dataset["Success"] for name, dataset in by_name(imported).items()} == {
        "/a/1.cfg": True,
        "/b/1.cfg": True,
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pack({"readme.txt": b"x"}), "no COMTRADE record .* in up/records.zip: it holds readme.txt"),
        (
            pack({"in/a.zip": pack({"a.cfg": b"x"})}),
            "it holds in/a.zip; archives inside an archive are not opened, import",
        ),
        (pack({}), "it is empty"),
        (b"nonsense", "not an archive"),
    ],
)
def test_an_archive_without_records_is_an_error_and_no_event(
    do_import: Importer, store: Store, data: bytes, message: str
) -> None:
    with pytest.raises(IngressError, match=message):
        do_import(data)
    with store.read() as tx:
        assert tx.events.page() == []


# ------------------------------------------------------------------------------------------------ one transaction


def test_archives_of_the_same_files_are_the_same_whenever_they_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = pack(sample_files())
    a_minute_later = time.localtime(time.time() + 60)
    monkeypatch.setattr(time, "localtime", lambda *_: a_minute_later)
    assert pack(sample_files()) == now


def test_the_same_request_again_returns_the_first_outcome(do_import: Importer, store: Store) -> None:
    first = do_import(pack(sample_files()), request_id="r-1")
    second = do_import(pack(sample_files()), request_id="r-1")
    assert (first.accepted.duplicate, second.accepted.duplicate) == (False, True)
    assert second.payload == first.payload
    with store.read() as tx:
        assert len(tx.events.page()) == 1


def test_a_request_id_used_for_another_archive_is_a_conflict(do_import: Importer) -> None:
    do_import(pack(sample_files()), request_id="r-1")
    with pytest.raises(EventConflict, match="'r-1' is already used"):
        do_import(pack({"a.cfg": b"x"}), request_id="r-1")


def test_two_imports_of_one_request_at_once_give_one_event(do_import: Importer, store: Store) -> None:
    barrier = threading.Barrier(2)
    results: list[Imported] = []

    def run() -> None:
        # Both have read everything before either writes its event.
        results.append(do_import(pack(sample_files()), request_id="r-1", progress=lambda _: barrier.wait(timeout=60)))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.accepted.duplicate for result in results) == [False, True]
    assert results[0].payload == results[1].payload


def test_samples_and_event_appear_together(do_import: Importer, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise InvalidInput("no")

    with monkeypatch.context() as patch:
        patch.setattr(importer, "accept_events", fails)
        with pytest.raises(InvalidInput):
            do_import(pack(sample_files()), request_id="r-1")
    with store.read() as tx:
        assert tx.series.find() == []
        assert tx.events.page() == []
    assert not do_import(pack(sample_files()), request_id="r-1").accepted.duplicate


def test_large_imports_are_written_in_several_transactions_with_the_event_in_the_last(
    do_import: Importer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "_FLUSH", 3 * SAMPLES)
    seen: list[tuple[int, int]] = []

    def look(_: Progress) -> None:
        with store.read() as tx:
            seen.append((len(tx.series.find()), len(tx.events.page())))

    do_import(pack(sample_files()), progress=look)
    assert seen == [(6, 0), (15, 0)]
    with store.read() as tx:
        assert len(tx.series.find()) == 16
        assert len(tx.events.page()) == 1


def test_progress_is_told_for_each_record(do_import: Importer) -> None:
    told: list[Progress] = []
    do_import(pack(sample_files() | {"bad.cfg": b"x"}), progress=told.append)
    assert [(step.done, step.total, step.name, step.ok) for step in told] == [
        (1, 3, "/fault_ascii.cfg", True),
        (2, 3, "/fault_binary.cfg", True),
        (3, 3, "/bad.cfg", False),
    ]
    assert told[2].reason


@pytest.mark.parametrize("tags", [["x" * 300], [""]])
def test_bad_tags_are_refused_before_anything_is_read(do_import: Importer, tags: Sequence[str]) -> None:
    with pytest.raises(InvalidInput):
        do_import(b"not even an archive", tags=tags)


def test_without_the_hook_nothing_is_imported(do_import: Importer, store: Store) -> None:
    with store.begin() as tx:
        tx.hooks.delete(HOOK)
    with pytest.raises(UnknownHook):
        do_import(pack(sample_files()))
    with store.read() as tx:
        assert tx.series.find() == []


# ------------------------------------------------------------------------------------------------ real records


@pytest.fixture
def real() -> Path:
    found = sorted(SAMPLE_RECORDS.rglob("sample_ascii.cfg")) if SAMPLE_RECORDS.is_dir() else []
    if not found:
        pytest.skip("the comtrade package's sample records are not there; fetch them with: scripts/run --demo")
    return found[0].parent


PAIRS = [
    ("sample_ascii.cfg", "sample_ascii.dat"),
    ("sample_ascii.cfg", "sample_ascii_missing.dat"),
    ("sample_ascii_utf-8.cfg", "sample_ascii.dat"),
    ("sample_sub_char.cfg", "sample_ascii.dat"),
    ("sample_bin.cfg", "sample_bin.dat"),
    ("sample_bin.cfg", "sample_bin_missing.dat"),
    ("sample_iso8859-1.cfg", "sample_iso8859-1.dat"),
    ("sample_iso8859-1_bin.cfg", "sample_iso8859-1_bin.dat"),
    ("sample_ascii.cff", None),
    ("sample_float32.cff", None),
]


@pytest.mark.parametrize(("cfg", "dat"), PAIRS)
def test_real_records_come_out_as_the_comtrade_package_reads_them(
    do_import: Importer, store: Store, real: Path, cfg: str, dat: str | None
) -> None:
    files = {cfg: (real / cfg).read_bytes()}
    if dat is not None:
        files[cfg.replace(".cfg", ".dat")] = (real / dat).read_bytes()
    imported = do_import(pack(files))
    (dataset,) = imported.payload["DataSets"]
    assert dataset["Error"] == ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = comtrade.Comtrade(ignore_warnings=True, use_numpy_arrays=True, use_double_precision=True)
        encoding = "iso-8859-1" if "8859" in cfg else "utf-8"
        reference.load(str(real / cfg), None if dat is None else str(real / dat), encoding=encoding)
    with store.read() as tx:
        for stream, expected in zip(dataset["Streams"], reference.analog + reference.status, strict=True):
            times, values = series.values(tx, stream["Uuid"], stream["StartNs"], stream["EndNs"] + 1)
            assert np.array_equal(values, np.asarray(expected, dtype=np.float64), equal_nan=True)
            assert np.allclose((times - times[0]) / 1e9, reference.time, atol=1e-9)
            row = tx.series.get(stream["Uuid"])
            assert row is not None
            assert row.tags["station"] == re.sub(r"\s+", " ", reference.station_name)


def test_a_folder_of_real_records_is_imported_whole(do_import: Importer, real: Path) -> None:
    imported = do_import(real, name="samples")
    ok = {name for name, dataset in by_name(imported).items() if dataset["Success"]}
    assert ok == {
        "/sample_ascii.cfg",
        "/sample_bin.cfg",
        "/sample_iso8859-1.cfg",
        "/sample_iso8859-1_bin.cfg",
        "/sample_ascii.cff",
        "/sample_float32.cff",
    }
    assert len(by_name(imported)) == 10
