"""Hook specs, their schemas, and the catalogue that they make together with handlers."""

from __future__ import annotations

import re
from typing import Any

import pytest

from eventproc.errors import InvalidInput, InvalidPayload, UnknownHook
from eventproc.model import Event, HandlerRecord, HandlerVersion, HookSpec, Options
from eventproc.registry.catalogue import Catalogue
from eventproc.registry.schemas import PayloadSchema, check_schema
from eventproc.registry.specs import load_specs, spec_from_mapping, specs_from_text

GOOD = """
hooks:
  - name: pump.started
    summary: A pump
      started.
    keep: 30d
    keep_idle: 1h
    schema: {type: object, required: [pump], properties: {pump: {type: string}}}
    sample: {pump: p1}
"""


def test_a_file_gives_its_hooks():
    (spec,), problems = specs_from_text(GOOD, name="pumps.yaml")
    assert problems == []
    assert spec == HookSpec(
        name="pump.started",
        summary="A pump started.",
        schema={"type": "object", "required": ["pump"], "properties": {"pump": {"type": "string"}}},
        sample={"pump": "p1"},
        keep_s=30 * 86400,
        keep_idle_s=3600,
        source="file",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hooks: [", "is no YAML"),
        ("just words", "holds no list of hooks"),
        ("hooks: 3", "holds no list of hooks"),
        ("- 3", "a hook is a dict"),
        ("- summary: x", "'name' is missing"),
        ("- name: 'a b'", "hook name 'a b'"),
        ("- {name: a, sumary: x}", "unknown member 'sumary'"),
        ("- {name: a, keep: soon}", "'a'.*keep.*'soon'"),
        ("- {name: a, schema: {type: objekt}}", r"'a'.*schema at \$\.type"),
        ("- {name: a, schema: [1]}", "'a'.*schema: must be a dict"),
        ("- {name: a, schema: {$ref: 'http://example.com/x.json'}}", "'a'.*leads outside"),
        ("- {name: a, schema: {$ref: '#/nowhere'}}", "'a'.*schema"),
        ("- {name: a, schema: {required: [x]}}", "'a'.*sample: give one"),
        ("- {name: a, schema: {properties: {x: {type: integer}}}, sample: {x: y}}", r"'a'.*sample at \$\.x"),
        ("- {name: a, sample: [1]}", "'a'.*sample: must be a dict"),
        ("- name: a\n- name: a", "'a'.*twice"),
    ],
)
def test_a_broken_spec_is_reported_with_file_and_reason(text, reason):
    _, problems = specs_from_text(text, name="broken.yaml")
    (problem,) = problems
    assert problem.message.startswith("broken.yaml: ")
    assert re.search(reason, problem.message), problem.message


def test_one_broken_spec_or_file_never_spoils_the_others(tmp_path):
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text("hooks: [")
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "d.yaml").write_text("- {name: x.one}\n- {name: 'bad name'}\n- {name: x.two}")
    paths = [*sorted(tmp_path.glob("*.yaml")), tmp_path / "missing.yaml"]
    specs, problems = load_specs(paths)
    assert [spec.name for spec in specs] == ["pump.started", "x.one", "x.two"]
    assert len(problems) == 4
    for problem, name in zip(problems, ["b.yaml", "c.yaml", "d.yaml", "missing.yaml"], strict=True):
        assert name in problem.message


def test_a_later_file_replaces_a_spec_of_the_same_name(tmp_path):
    (tmp_path / "a.yaml").write_text("- {name: x, summary: first}")
    (tmp_path / "b.yaml").write_text("- {name: x, summary: second}")
    specs, _ = load_specs(sorted(tmp_path.glob("*.yaml")))
    assert [spec.summary for spec in specs] == ["second"]


def test_yaml_can_not_run_code():
    _, problems = specs_from_text("- {name: a, summary: !!python/object/apply:os.getcwd []}", name="evil.yaml")
    assert "is no YAML" in problems[0].message


# --------------------------------------------------------------------------------------------------- catalogue


def catalogue(*specs: HookSpec, handlers: Any = ()) -> Catalogue:
    return Catalogue(revision=1, hooks=specs, handlers=list(handlers))


def spec(name: str, **schema: Any) -> HookSpec:
    return HookSpec(name=name, summary="", schema=schema)


def handler(
    number: int, hook: str, *, tags: tuple[str, ...] = (), pattern: dict[str, Any] | None = None
) -> HandlerRecord:
    version = HandlerVersion(
        handler_id=number,
        version=0,
        digest="0" * 64,
        size=1,
        python="3.11",
        dill="0.4",
        source=None,
        filename=None,
        qualname="f",
        kind="function",
        globals=(),
        tags=tags,
        notify_on_success=None,
        notify_on_failure=None,
        options=Options(filter=pattern),
        created_us=1,
        created_by="ada",
    )
    return HandlerRecord(
        id=number,
        hook=hook,
        name=f"h{number}",
        owner_id=1,
        current=version,
        paused=False,
        created_us=1,
        created_by="ada",
        updated_us=1,
        updated_by="ada",
    )


def event(hook: str, payload: str = "{}", *, tags: tuple[str, ...] = ()) -> Event:
    return Event(
        seq=1,
        id="e",
        hook=hook,
        source="test",
        time_us=1,
        tags=tags,
        key=None,
        payload_json=payload,
        digest="",
        trace_parent=None,
        hops=0,
        accepted_us=2,
    )


def test_the_most_specific_spec_validates():
    known = catalogue(
        spec("*"), spec("compute.*"), spec("compute.instance.*"), spec("compute.instance.exists"), spec("c*s")
    )
    for hook, name in {
        "compute.instance.exists": "compute.instance.exists",
        "compute.instance.delete": "compute.instance.*",
        "compute.node.up": "compute.*",
        "cats": "c*s",
        "volume.usage": "*",
    }.items():
        assert known.spec_for(hook).name == name


def test_an_unknown_hook_is_refused_with_the_near_names():
    known = catalogue(spec("model.defined"), spec("model.deleted"), spec("run.failed"))
    with pytest.raises(UnknownHook, match=r"unknown hook 'model\.defind'; did you mean: model\.defined"):
        known.spec_for("model.defind")
    with pytest.raises(
        UnknownHook, match=r"unknown hook 'xyz'; there are: model\.defined, model\.deleted, run\.failed"
    ):
        known.spec_for("xyz")


@pytest.mark.parametrize(
    ("payload", "path", "reason"),
    [
        ({}, "$", "'rows' is a required property"),
        ({"rows": 3}, "$.rows", "3 is not of type 'array'"),
        ({"rows": [{"anomaly": 0.1}, {"anomaly": "high"}]}, "$.rows[1].anomaly", "'high' is not of type 'number'"),
        ({"rows": [{"anomaly": 2}]}, "$.rows[0].anomaly", "2 is greater than the maximum of 1"),
        ({"rows": [], "odd name": 3}, "$['odd name']", "is not of type 'string'"),
    ],
)
def test_a_payload_that_breaks_the_schema_is_refused_with_its_json_path(payload, path, reason):
    row = {"type": "object", "properties": {"anomaly": {"type": "number", "maximum": 1}}}
    known = catalogue(
        spec(
            "x",
            type="object",
            required=["rows"],
            properties={"rows": {"type": "array", "items": row}, "odd name": {"type": "string"}},
        )
    )
    with pytest.raises(InvalidPayload) as caught:
        known.validate("x", payload)
    assert caught.value.details["path"] == path
    assert reason in caught.value.message
    known.validate("x", {"rows": [{"anomaly": 1}]})


def test_keywords_of_the_newest_draft_are_honoured():
    known = catalogue(spec("x", properties={"pair": {"prefixItems": [{"type": "integer"}, {"type": "string"}]}}))
    known.validate("x", {"pair": [1, "a"]})
    with pytest.raises(InvalidPayload) as caught:
        known.validate("x", {"pair": ["a", "b"]})
    assert caught.value.details["path"] == "$.pair[0]"


def test_a_huge_value_is_shortened_in_the_error():
    known = catalogue(spec("x", properties={"a": {"type": "integer"}}))
    with pytest.raises(InvalidPayload) as caught:
        known.validate("x", {"a": "y" * 100_000})
    assert len(caught.value.message) < 600


def test_defaults_in_a_schema_do_not_change_the_payload():
    known = catalogue(spec("x", properties={"a": {"default": 3}}))
    payload: dict[str, Any] = {}
    known.validate("x", payload)
    assert payload == {}


@pytest.mark.parametrize(
    ("event_tags", "handler_tags", "runs"),
    [
        ((), (), True),
        ((), ("a",), True),  # an event without tags runs all handlers of its hook
        (("a",), (), True),  # a handler without tags takes every event
        (("a", "b"), ("b", "c"), True),  # else one in common is enough
        (("a",), ("b",), False),
    ],
)
def test_tags_choose_handlers(event_tags, handler_tags, runs):
    known = catalogue(spec("x"), handlers=[handler(1, "x", tags=handler_tags)])
    assert [record.id for record in known.match(event("x", tags=event_tags))] == [1][: int(runs)]


def test_handlers_may_be_registered_on_a_glob():
    known = catalogue(spec("model.defined"), handlers=[handler(1, "model.*"), handler(2, "run.*"), handler(3, "*")])
    assert [record.id for record in known.match(event("model.defined"))] == [1, 3]


def test_a_filter_chooses_by_payload():
    known = catalogue(spec("x"), handlers=[handler(1, "x", pattern={"v": [{"numeric": [">", 5]}]}), handler(2, "x")])
    assert [record.id for record in known.match(event("x", '{"v": 9}'))] == [1, 2]
    assert [record.id for record in known.match(event("x", '{"v": 1}'))] == [2]
    assert [record.id for record in known.match(event("x"), {"v": 6})] == [1, 2]


def test_an_unreadable_filter_stops_only_its_own_handler():
    known = catalogue(spec("x"), handlers=[handler(1, "x", pattern={"v": "no list"}), handler(2, "x")])
    assert [record.id for record in known.match(event("x", '{"v": 9}'))] == [2]
    reasons = known.explain(event("x", '{"v": 9}'), handler(1, "x", pattern={"v": "no list"}))
    assert [reason.ok for reason in reasons] == [True, True, False]


def test_each_check_on_the_way_is_explained():
    known = catalogue(spec("x"))
    reasons = known.explain(
        event("x", '{"v": 1}', tags=("a",)), handler(1, "y", tags=("b",), pattern={"v": [2], "w": [3]})
    )
    assert [(reason.check, reason.ok) for reason in reasons] == [("hook", False), ("tags", False), ("filter", False)]
    assert "'y'" in reasons[0].text
    assert "'x'" in reasons[0].text
    assert "none in common" in reasons[1].text
    assert reasons[2].text.endswith("at: v, w")


def test_a_handler_on_a_hook_that_can_not_happen_is_refused():
    known = catalogue(spec("model.defined"), spec("compute.*"))
    for hook in ("model.defined", "compute.x", "model.*", "compute.*", "compute.instance.*", "*"):
        known.check_registrable(hook)
    for hook in ("model.lost", "volume.*"):
        with pytest.raises(UnknownHook):
            known.check_registrable(hook)


def test_the_handlers_that_depend_on_a_spec_are_known():
    known = catalogue(
        spec("model.defined"),
        spec("model.*"),
        spec("run.failed"),
        handlers=[handler(1, "model.defined"), handler(2, "model.x"), handler(3, "run.*"), handler(4, "*")],
    )
    assert [record.id for record in known.handlers_of_spec(spec("model.*"))] == [2]
    assert [record.id for record in known.handlers_of_spec(spec("run.failed"))] == [3]


def test_event_hooks_must_be_names():
    known = catalogue(spec("*"))
    for bad in ("a.*", "", None, ["x"], 3):
        with pytest.raises(InvalidInput):
            known.spec_for_event(bad)
    assert known.spec_for_event("a.b").name == "*"


def test_a_spec_given_by_hand_is_checked_like_one_from_a_file():
    assert spec_from_mapping({"name": "a.*"}).source == "user"
    with pytest.raises(InvalidInput, match="'a'"):
        spec_from_mapping({"name": "a", "schema": {"type": "nothing"}})


# ---------------------------------------------------------------------------------------------------- patterns


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"type": "string", "pattern": "^(a|a)*$"}}},
        {"additionalProperties": {"pattern": "^(a|a)*$"}},
        {"patternProperties": {"^(a|a)*$": {}}},
        {"patternProperties": {"^(a|a)*$": {}}, "additionalProperties": False},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "properties": {"a": {"pattern": "^(a|a)*$"}}},
        {"dependentRequired": {}, "patternProperties": {"^(a|a)*$": {}}},
        {"properties": {"a": {"type": "string", "format": "email"}}},
    ],
)
def test_a_pattern_that_takes_for_ever_refuses_the_payload_in_words_and_stops_nobody(schema):
    evil = "a" * 40 + "b"
    payload = {"a": "x@" + "a." * 200_000 + "@" if "email" in str(schema) else evil, evil: evil}
    with pytest.raises(InvalidPayload, match=r"takes too long on a text of [\d,]+ characters"):
        PayloadSchema({"type": "object", **schema}).check("x", payload)


def test_patterns_still_say_what_fits_and_what_does_not():
    schema = {
        "type": "object",
        "properties": {"code": {"type": "string", "pattern": "^[A-Z]{3}$"}, "mail": {"format": "email"}},
        "patternProperties": {"^x-": {"type": "integer"}},
        "additionalProperties": False,
    }
    for modern in ({}, {"dependentRequired": {}}):
        check = PayloadSchema({**schema, **modern}).check
        check("h", {"code": "ABC", "x-a": 1})
        for payload, path, says in (
            ({"code": "abc"}, r"\$\.code", "does not match"),
            ({"x-a": "1"}, r"\$\['x-a'\]", "integer"),
            ({"other": 1}, r"\$:", "other"),
        ):
            with pytest.raises(InvalidPayload, match=f"at {path}.*{says}"):
                check("h", payload)


def test_what_is_no_regular_expression_is_refused_with_the_schema():
    for schema in ({"properties": {"a": {"pattern": "(["}}}, {"dependentRequired": {}, "patternProperties": {"*": {}}}):
        with pytest.raises(InvalidInput, match=r"regular expression|regex"):
            check_schema({"type": "object", **schema})


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        ({"items": {"type": "integer"}}, [0] * 100_000 + [""]),
        ({"items": {"enum": list(range(1000))}}, [""] * 50_000),
        ({"uniqueItems": True}, [n if n % 2 else str(n) for n in range(20_000)] + [{"a": 1}, {"a": 1}]),
    ],
)
def test_of_a_large_bad_payload_only_the_quick_check_is_made(monkeypatch, rule, rows):
    """The one with the better words would hold up everybody's events for seconds, if not minutes."""
    checked = PayloadSchema({"type": "object", "properties": {"rows": {"type": "array", **rule}}})
    monkeypatch.setattr(checked, "_slow", None)
    with pytest.raises(InvalidPayload, match=r"payload of 'h' at \$\.rows(\[\d+\])?: must "):
        checked.check("h", {"rows": rows})
