"""What every sandbox gives a handler: `ep` and `db`."""

# Handlers stand here as users write them: untyped, with `ep` out of nowhere.
# ruff: noqa: F821, BLE001
# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs, no-check-untyped-defs
# mypy: no-warn-return-any, disable-error-code="name-defined"

from __future__ import annotations

import json
import struct

from sandbox_world import Session, failure, result, run_one

from eventproc.errors import InvalidPayload, NotFound

# ---------------------------------------------------------------------- ep


def test_ep_knows_the_event_without_import(sandbox):
    def handler(db):
        event = ep.event
        return [event.message_id, event.event_type, event.timestamp.isoformat(), event.tags, event.key, event.attempt]

    assert result(sandbox, handler) == ["m-1", "test.hook", "2023-11-14T22:13:20.000001+00:00", ["a"], "k", 1]


def test_emit_asks_the_platform_and_returns_the_id(sandbox):
    def handler(db):
        return ep.emit("other.hook", {"x": [1, "ü"]}, tags=["t"], key="k", time="2026-01-02T03:04:05Z")

    session = Session({"emit": lambda args, body: ({"id": "new-id"}, ())})
    outcome, _ = run_one(sandbox, handler, session=session)
    assert outcome.result_json == '"new-id"'
    ((op, args, _),) = session.asked
    assert op == "emit"
    assert args == {
        "hook": "other.hook",
        "payload": {"x": [1, "ü"]},
        "tags": ["t"],
        "key": "k",
        "time_us": 1_767_323_045_000_000,
    }


def test_a_refused_request_is_an_exception_that_can_be_caught(sandbox):
    def refuse(args, body):
        raise InvalidPayload("$.x is missing", path="$.x")

    def handler(db):
        try:
            ep.emit("other.hook", {})
        except ValueError as error:
            return [type(error).__name__, str(error), error.code, error.details]

    session = Session({"emit": refuse})
    outcome, _ = run_one(sandbox, handler, session=session)
    assert json.loads(outcome.result_json) == [
        "InvalidError",
        "$.x is missing",
        "invalid_payload",
        {"path": "$.x"},
    ]


def test_a_fault_inside_the_platform_ends_the_run_and_says_whose_fault_it_was(sandbox):
    def broken(args, body):
        raise ZeroDivisionError

    def handler(db):
        try:
            ep.emit("other.hook", {})
        except BaseException:
            return "swallowed"

    outcome, _ = run_one(sandbox, handler, session=Session({"emit": broken}))
    assert outcome.failure is not None
    assert outcome.failure.kind == "sandbox"
    assert "internal error" in outcome.failure.message


def test_a_file_is_uploaded_in_pieces(sandbox, tmp_path):
    stored = bytearray()

    def write(args, body):
        stored.extend(body)
        return None, ()

    def handler(db):
        import tempfile

        with tempfile.NamedTemporaryFile(suffix=".bin") as file:
            file.write(b"0123456789" * 300_000)
            file.flush()
            return ep.upload_file(file.name, "data.bin")

    session = Session(
        {
            "upload_open": lambda args, body: ({"code": "c" * 32, "url": "u"}, ()),
            "upload_write": write,
            "upload_close": lambda args, body: ({"size": len(stored), "url": "http://x/" + "c" * 32}, ()),
        }
    )
    outcome, _ = run_one(sandbox, handler, session=session)
    assert outcome.failure is None, outcome.failure
    assert json.loads(outcome.result_json) == "http://x/" + "c" * 32
    assert bytes(stored) == b"0123456789" * 300_000
    assert session.asked[0][1] == {"name": "data.bin", "size": 3_000_000}
    assert max(len(body) for _, _, body in session.asked) <= 1 << 20


def test_uploading_what_is_not_there_is_a_clear_error(sandbox):
    found = failure(sandbox, lambda db: ep.upload_file("/no/such/file"))
    assert found.type == "FileNotFoundError"
    assert "/no/such/file" in found.message


# ---------------------------------------------------------------------- db


def test_values_are_arrays(sandbox):
    uuid = "0f2c1c6e-6b3a-4a56-9b4c-0a4a3e1d2c3b"

    def handler(db, uuid):
        times, values = db.values(uuid, 0, "1970-01-01T00:00:00.000000005Z")
        values[0] += 1
        return [str(times.dtype), times.tolist(), str(values.dtype), values.tolist()]

    session = Session(
        {"values": lambda args, body: ({"count": 2}, [struct.pack("<2q", 1, 2), struct.pack("<2d", 0.5, 1.5)])}
    )
    outcome, _ = run_one(sandbox, handler, {"uuid": uuid}, session=session)
    assert json.loads(outcome.result_json) == ["int64", [1, 2], "float64", [1.5, 1.5]]
    assert session.asked == [("values", {"uuid": uuid, "start": 0, "end": 5}, b"")]


def test_values_come_in_pages(sandbox):
    pages = {0: ([1, 2], 3), 3: ([], 9), 9: ([10, 11, 12], None)}

    def answer(args, body):
        times, following = pages[args["start"]]
        parts = [struct.pack(f"<{len(times)}q", *times), struct.pack(f"<{len(times)}d", *times)]
        return {"count": len(times), "next": following}, parts

    def handler(db):
        times, values = db.values("0f2c1c6e-6b3a-4a56-9b4c-0a4a3e1d2c3b", 0, 100)
        values[0] += 1
        return [str(times.dtype), times.tolist(), values.tolist()]

    outcome, _ = run_one(sandbox, handler, session=Session({"values": answer}))
    assert json.loads(outcome.result_json) == ["int64", [1, 2, 10, 11, 12], [2.0, 2.0, 10.0, 11.0, 12.0]]


def test_more_values_than_one_call_gives_are_refused_with_a_way_out(sandbox):
    session = Session({"values": lambda args, body: ({"count": 5_000_000, "next": args["start"] + 1}, [b"", b""])})

    def handler(db):
        db.values("0f2c1c6e-6b3a-4a56-9b4c-0a4a3e1d2c3b", 0, 100)

    outcome, _ = run_one(sandbox, handler, session=session)
    assert "over 8,000,000 samples lie in that range" in outcome.failure.message
    assert "ask for shorter ranges" in outcome.failure.message
    assert len(session.asked) == 2


def test_windows_are_one_structured_array(sandbox):
    columns = [struct.pack("<1q", 0), *(struct.pack("<1d", x) for x in (1.0, 2.0, 3.0))]
    columns += [struct.pack("<1q", 9), struct.pack("<1d", 0.1)]

    def handler(db):
        table = db.windows("0f2c1c6e-6b3a-4a56-9b4c-0a4a3e1d2c3b", 0, 100, 10)
        return [list(table.dtype.names), table.tolist()]

    session = Session({"windows": lambda args, body: ({"count": 1}, columns)})
    outcome, _ = run_one(sandbox, handler, session=session)
    assert json.loads(outcome.result_json) == [
        ["time", "min", "mean", "max", "count", "stddev"],
        [[0, 1.0, 2.0, 3.0, 9, 0.1]],
    ]


def test_windows_come_in_pages(sandbox):
    def answer(args, body):
        count, following = {0: (2, 20), 20: (0, 50), 50: (1, None)}[args["start"]]
        times = [args["start"] + 10 * i for i in range(count)]
        columns = [struct.pack(f"<{count}q", *times), *[struct.pack(f"<{count}d", *times)] * 3]
        return {"count": count, "next": following}, [*columns, *columns[:2]]

    def handler(db):
        table = db.aligned_windows("0f2c1c6e-6b3a-4a56-9b4c-0a4a3e1d2c3b", 0, 100, 3)
        pairs = db.stream_from_uuid("0f2c1c6e-6b3a-4a56-9b4c-0a4a3e1d2c3b").windows(0, 100, 10)
        assert [tuple(point) for point, _ in pairs] == table.tolist()
        return [list(table.dtype.names), table.tolist()]

    row = {"uuid": "0f2c1c6e-6b3a-4a56-9b4c-0a4a3e1d2c3b"}
    session = Session({"aligned_windows": answer, "windows": answer, "stream": lambda args, body: (row, ())})
    outcome, _ = run_one(sandbox, handler, session=session)
    names, rows = json.loads(outcome.result_json)
    assert names == ["time", "min", "mean", "max", "count", "stddev"]
    assert rows == [[time, float(time), float(time), float(time), time, float(time)] for time in (0, 10, 50)]


def test_more_windows_than_one_call_gives_are_refused_with_a_way_out(sandbox):
    more = {"count": 1_500_000, "next": 50}
    session = Session({"aligned_windows": lambda args, body: (more, [b""] * 6)})

    def handler(db):
        errors = []
        for ask in (db.windows, db.aligned_windows):
            try:
                ask("0f2c1c6e-6b3a-4a56-9b4c-0a4a3e1d2c3b", 0, 100_000_000, 1)
            except ValueError as error:
                errors.append([error.code, str(error)])
        return errors

    outcome, _ = run_one(sandbox, handler, session=session)
    text = "over 2,000,000 windows lie in that range, the limit of one call: ask for wider windows"
    assert [(code, message.startswith(text)) for code, message in json.loads(outcome.result_json)] == [
        ("too_large", True),
        ("too_large", True),
    ]
    assert [op for op, _, _ in session.asked] == ["aligned_windows"] * 2


def test_streams_have_btrdbs_names_and_shapes(sandbox):
    uuid = "0f2c1c6e-6b3a-4a56-9b4c-0a4a3e1d2c3b"
    row = {
        "uuid": uuid,
        "name": "L1",
        "collection": "plant/a",
        "unit": "V",
        "tags": {"phase": "A"},
        "annotations": {"note": "x"},
        "count": 2,
        "earliest": 1,
        "latest": 2,
    }
    session = Session(
        {
            "stream": lambda args, body: (row, ()),
            "streams": lambda args, body: ([row], ()),
            "values": lambda args, body: ({"count": 1}, [struct.pack("<1q", 1), struct.pack("<1d", 0.5)]),
            "earliest": lambda args, body: ({"time": 1, "value": 0.5}, ()),
            "latest": lambda args, body: (None, ()),
            "count": lambda args, body: ({"count": 2}, ()),
            "insert": lambda args, body: (None, ()),
        }
    )

    def handler(db, uuid):
        stream = db.stream_from_uuid(uuid)
        ((point, version),) = stream.values(0, 10)
        stream.insert([(5, 1.0), (6, 2.0)])
        return {
            "identity": [str(stream.uuid), stream.name, stream.collection, stream.unit, stream.tags()["phase"]],
            "annotations": stream.annotations()[0],
            "point": [point.time, point.value, version],
            "earliest": stream.earliest()[0].value,
            "latest": stream.latest(),
            "count": stream.count(),
            "same": db.streams("plant/a/L1") == [stream],
        }

    outcome, _ = run_one(sandbox, handler, {"uuid": uuid}, session=session)
    assert outcome.failure is None, outcome.failure
    assert json.loads(outcome.result_json) == {
        "identity": [uuid, "L1", "plant/a", "V", "A"],
        "annotations": {"note": "x"},
        "point": [1, 0.5, 0],
        "earliest": 0.5,
        "latest": None,
        "count": 2,
        "same": True,
    }
    inserted = next(body for op, _, body in session.asked if op == "insert")
    assert inserted == struct.pack("<2q", 5, 6) + struct.pack("<2d", 1.0, 2.0)


def test_a_stream_that_is_not_there_is_a_lookup_error(sandbox):
    def missing(args, body):
        raise NotFound("no series of that UUID")

    def handler(db):
        try:
            db.stream_from_uuid("0f2c1c6e-6b3a-4a56-9b4c-0a4a3e1d2c3b")
        except LookupError as error:
            return str(error)

    outcome, _ = run_one(sandbox, handler, session=Session({"stream": missing}))
    assert json.loads(outcome.result_json) == "no series of that UUID"


def test_requests_from_threads_of_the_handler_are_answered(sandbox):
    def handler(db):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(8) as pool:
            return sorted(pool.map(lambda n: ep.emit("h", {"n": n}), range(50)))

    session = Session({"emit": lambda args, body: ({"id": f"{args['payload']['n']:02d}"}, ())})
    outcome, _ = run_one(sandbox, handler, session=session)
    assert json.loads(outcome.result_json) == [f"{n:02d}" for n in range(50)]
