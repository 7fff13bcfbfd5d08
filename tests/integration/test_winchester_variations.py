"""
Days as they should not be, against a plain reading of winchester's rules that is written down here.

Late, doubled and lost notifications, null and wrong dates, other time zones, odd traits: the same comes of each
instance as the rules say, whether the worker looks after the day or every ten minutes of it.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from eventproc.compat.winchester.configuration import Configuration, read_configuration
from eventproc.compat.winchester.replay import replay

DAYS = int(os.environ.get("EVENTPROC_TEST_DAYS", "3"))  # that each test makes up
DAY = dt.datetime(2015, 2, 27)  # noqa: DTZ001 - winchester's times are naive
ONE = dt.timedelta(days=1)
LOOKS = dt.timedelta(minutes=10)
PREFIX = "compute.instance."
EXISTS = f"{PREFIX}exists"
CORE = ("launched_at", "instance_flavor_id", "tenant_id", "os_architecture", "os_version", "os_distro")
OPERATIONS = [f"{PREFIX}{name}.end" for name in ("rebuild", "finish_resize", "rescue")]

FILES = {
    "winchester.yaml": """
database: {url: "sqlite:///winchester.db"}
distiller_config: event_definitions.yaml
trigger_definitions: triggers.yaml
pipeline_config: pipelines.yaml
pipeline_handlers: {usage: "winchester.pipeline_handler:UsageHandler"}
""",
    "pipelines.yaml": "usage: [usage]\n",
    "event_definitions.yaml": """
- event_type: compute.instance.*
  traits: &traits
    instance_id: {fields: payload.instance_id}
    instance_flavor_id: {fields: payload.flavor}
    memory_mb: {type: int, fields: payload.memory_mb}
    weight: {type: float, fields: payload.weight}
    display_name: {fields: payload.display_name}
    state: {fields: payload.state}
    os_distro: {fields: "payload.image_meta.'org.openstack__1__os_distro'"}
    launched_at: {type: datetime, fields: payload.launched_at}
    deleted_at: {type: datetime, fields: payload.deleted_at}
- event_type: compute.instance.exists
  traits:
    <<: *traits
    audit_period_beginning: {type: datetime, fields: payload.audit_period_beginning}
    audit_period_ending: {type: datetime, fields: payload.audit_period_ending}
""",
    "triggers.yaml": """
- name: usage
  distinguished_by: [instance_id, {timestamp: "day"}]
  expiration: "$last + 1d"
  fire_pipeline: usage
  expire_pipeline: usage
  match_criteria:
  - event_type: ["compute.instance.*", "!compute.instance.exists", "!compute.instance.exists.*"]
  - event_type: compute.instance.exists
    map_distinguished_by: {timestamp: audit_period_beginning}
  fire_criteria:
  - event_type: compute.instance.exists
""",
}
AT_THE_END = """    traits:
      audit_period_ending:
        datetime: "($audit_period_beginning + 1d) @ 0h 0m 0s 0us"
"""


# ---------------------------------------------------------------------- the rules


class Wrong(Exception):
    """A record is wrong: code and text."""


Event = dict[str, Any]


def read_time(text: Any) -> dt.datetime | None:
    if not text:
        return None
    moment = dt.datetime.fromisoformat(text)
    return moment if moment.tzinfo is None else moment.astimezone(dt.UTC).replace(tzinfo=None)


def event_of(notification: dict[str, Any]) -> Event | None:
    """The event of a notification: None if it is of another kind. Raises ValueError for what can not be converted."""
    kind = notification["event_type"]
    if not kind.startswith(PREFIX):
        return None
    said = notification["payload"]
    found = {
        "instance_id": said["instance_id"],
        "tenant_id": said.get("tenant_id") or notification["_context_tenant"],
        "instance_flavor_id": said.get("flavor"),
        "memory_mb": None if said.get("memory_mb") in (None, "") else int(said["memory_mb"]),
        "weight": None if said.get("weight") in (None, "") else float(said["weight"]),
        "display_name": said.get("display_name"),
        "state": said.get("state"),
        "os_distro": said.get("image_meta", {}).get("org.openstack__1__os_distro"),
        "launched_at": read_time(said.get("launched_at")),
        "deleted_at": read_time(said.get("deleted_at")),
    }
    if kind == EXISTS:
        found["audit_period_beginning"] = read_time(said.get("audit_period_beginning"))
        found["audit_period_ending"] = read_time(said.get("audit_period_ending"))
    traits = {name: str(value) if name in TEXTS else value for name, value in found.items() if value is not None}
    own = {"message_id": notification["message_id"], "event_type": kind}
    return {**traits, **own, "timestamp": read_time(notification["timestamp"])}


TEXTS = ("instance_id", "tenant_id", "instance_flavor_id", "display_name", "state", "os_distro")


@dataclass
class Stream:
    """The events of one instance and day."""

    key: tuple[str, dt.datetime]
    events: list[Event] = field(default_factory=list)
    fires: dt.datetime | None = None
    active: bool = True

    @property
    def expires(self) -> dt.datetime:
        return max(event["timestamp"] for event in self.events) + ONE


class Rules:
    """winchester, as its rules are told: what comes of each instance."""

    def __init__(self, *, interleave: bool, at_the_end: bool) -> None:
        self.interleave = interleave
        self.at_the_end = at_the_end
        self.streams: list[Stream] = []
        self.results: dict[str, Counter[Any]] = {}
        self.judged: dict[str, str] = {}  # by the id of a record
        self.errors: set[str] = set()
        self.last: dict[str, tuple[dt.datetime, str] | None] = {}

    def run(self, notifications: list[dict[str, Any]]) -> dict[str, Any]:
        clock = looked = DAY
        seen: set[str] = set()
        for notification in notifications:
            clock = max(clock, read_time(notification["timestamp"]) or DAY)
            if self.interleave and clock - looked >= LOOKS:
                looked = clock
                self.look(clock)
            try:
                event = event_of(notification)
            except ValueError:
                continue
            if event is not None and event["message_id"] not in seen:
                seen.add(event["message_id"])
                self.add(event, clock)
        self.look(DAY + ONE + dt.timedelta(hours=2))
        self.look(DAY + 4 * ONE)
        return {instance: (self.final(instance), self.results.get(instance, Counter())) for instance in self.last}

    def add(self, event: Event, clock: dt.datetime) -> None:
        instance = event["instance_id"]
        self.last.setdefault(instance, None)
        when = event["timestamp"]
        if event["event_type"] == EXISTS:
            last = self.last[instance]
            if last is None or when >= last[0]:
                self.last[instance] = (when, event["message_id"])
            if "audit_period_beginning" not in event:
                return
            when = event["audit_period_beginning"]
        key = (instance, when.replace(hour=0, minute=0, second=0, microsecond=0))
        found = [each for each in self.streams if each.active and each.key == key and each.expires > clock]
        if not found:
            found = [Stream(key)]
            self.streams += found
        (stream,) = found
        stream.events.append(event)
        if event["event_type"] == EXISTS and (not self.at_the_end or whole_day(event)):
            stream.fires = stream.fires or clock

    def look(self, now: dt.datetime) -> None:
        for stream in self.streams:
            if stream.active and (stream.fires or stream.expires) < now:
                stream.active = False
                self.work_on(stream)

    def work_on(self, stream: Stream) -> None:
        block: list[Event] = []
        warnings: list[str] = []  # which later records repeat
        made: list[Any] = []
        judged = {}
        try:
            for event in sorted(stream.events, key=lambda event: event["timestamp"]):
                if event["event_type"] != EXISTS:
                    block.append(event)
                    continue
                said = verdict(block, event, warnings)
                if warnings:
                    made.append(("warnings", None, event["timestamp"], None, None, ", ".join(warnings)))
                kind = "failed" if said else "verified"
                number = str(uuid.uuid5(uuid.UUID(event["message_id"]), f"{EXISTS}.{kind}"))
                made.append((kind, said, event["timestamp"], event["message_id"], number, None))
                judged[event["message_id"]] = f"failed:{said}" if said else "verified"
                block = []
            if block:
                made.append(("failed", "U0", block[0]["timestamp"], None, None, None))
                judged["none"] = "failed:U0"
        except KeyError:  # a trait that one side lacks
            self.errors.add(stream.key[0])
            return
        self.judged |= {(stream.key[0], name): each for name, each in judged.items()}
        self.results.setdefault(stream.key[0], Counter()).update(made)

    def final(self, instance: str) -> Any:
        last = self.last[instance]
        found = self.judged.get((instance, last[1])) if last else None
        if found is None and instance in self.errors:
            return "stream_error"
        if found is None and last is not None:
            return ...  # its last record joined no stream: what is told then is of another one
        return found or self.judged.get((instance, "none"), "none")


def whole_day(exists: Event) -> bool:
    begin, end = exists.get("audit_period_beginning"), exists.get("audit_period_ending")
    return begin is not None and end == (begin + ONE).replace(hour=0, minute=0, second=0, microsecond=0)


def verdict(block: list[Event], exists: Event, warnings: list[str]) -> str | None:
    """The code of what is wrong with a record, None if nothing is. Raises KeyError."""
    try:
        check_launch(block, exists)
        operations = [event for event in block if event["event_type"] in OPERATIONS]
        begin, end = exists.get("audit_period_beginning"), exists.get("audit_period_ending")
        if operations:
            check(not differ(operations[-1], exists, CORE), "U2")
        elif begin and end and end.date() != begin.date() + ONE:
            warnings.append(f"Non-EOD .exists found (msg_id: {exists['message_id']}) with no operation event.")
        check_deletion([event for event in block if event["event_type"] == f"{PREFIX}delete.end"], exists)
    except Wrong as wrong:
        return str(wrong)
    return None


def check(holds: bool, code: str) -> None:  # noqa: FBT001 - as assert
    if not holds:
        raise Wrong(code)


def within(exists: Event, moment: dt.datetime) -> bool:
    begin, end = exists.get("audit_period_beginning"), exists.get("audit_period_ending")
    return begin is not None and end is not None and begin <= moment <= end


def check_launch(block: list[Event], exists: Event) -> None:
    if exists.get("state") == "active":
        check("launched_at" in exists, "U1")
        check(bool(block) or not within(exists, exists["launched_at"]), "U8")


def check_deletion(deletes: list[Event], exists: Event) -> None:
    launched, deleted = exists.get("launched_at"), exists.get("deleted_at")
    if deleted is None:
        check(not deletes, "U6")
        return
    check(exists.get("state") == "deleted", "U3")
    if not deletes:
        check(launched is None or deleted >= launched, "U4")
        check(not within(exists, deleted), "U5")
        return
    check(len(deletes) == 1, "U7")
    check(not differ(exists, deletes[0], ("launched_at", "deleted_at")), "U2")


def differ(one: Event, other: Event, names: tuple[str, ...]) -> bool:
    return any((name in one or name in other) and one[name] != other[name] for name in names)


# ---------------------------------------------------------------------- days


def written(moment: dt.datetime, form: int) -> str:
    """A moment in one of the ways that services write it."""
    if form == 0:
        return moment.strftime("%Y-%m-%d %H:%M:%S.%f")
    if form == 1:
        return moment.isoformat() + "Z"
    offset = dt.timezone(dt.timedelta(minutes=(330, -480, 60)[form % 3]))
    return moment.replace(tzinfo=dt.UTC).astimezone(offset).isoformat()


TIMES = st.one_of(
    st.integers(1, 86_399).map(lambda s: dt.timedelta(seconds=s)),
    st.integers(1, 86_399_999_999).map(lambda us: dt.timedelta(microseconds=us)),
    st.sampled_from([0, 600, 1200, 43_200, 86_399]).map(lambda s: dt.timedelta(seconds=s)),
)
KINDS = ["create.end", "update", "update", "reboot.end", "delete.end", "rebuild.end", "finish_resize.end", "exists"]
DATES = st.sampled_from(["before", "before", "before", "today", "after", "null", "empty", "missing"])


@st.composite
def steps(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "kind": draw(st.sampled_from(KINDS)),
        "at": draw(TIMES),
        "state": draw(st.sampled_from(["active", "active", "deleted", "stopped", None])),
        "launched": draw(DATES),
        "deleted": draw(st.sampled_from(["missing", "missing", "empty", "null", "today", "before"])),
        "form": draw(st.integers(0, 4)),
        "flavor": draw(st.sampled_from(["1", "1", "1", 1, "2", None])),
        "memory_mb": draw(st.sampled_from([512, "512", 2**40, "", None, 512.0, "many"])),
        "weight": draw(st.sampled_from([1.5, "2", 0, None])),
        "display_name": draw(st.sampled_from(["a", "ü <&>", "", None, ["list"]])),
        "lag": draw(st.integers(0, 240)),
        "twice": draw(st.integers(0, 9)) == 0,
    }


# What seldom comes of chance: the record of the day's end, and what kinds of notifications were before it.
STORIES = {
    "U4": ({"state": "deleted", "launched": "today", "deleted": "before"}, []),
    "U5": ({"state": "deleted", "launched": "before", "deleted": "today"}, []),
    "U7": ({"state": "deleted", "launched": "before", "deleted": "today"}, ["delete.end", "delete.end"]),
    "U8": ({"state": "active", "launched": "today", "deleted": "missing"}, []),
    "deleted": ({"state": "deleted", "launched": "before", "deleted": "today"}, ["delete.end"]),
    "resized": ({"state": "active", "launched": "before", "deleted": "empty"}, ["update", "finish_resize.end"]),
}


@st.composite
def stories(draw: st.DrawFn) -> list[dict[str, Any]]:
    record, before = STORIES[draw(st.sampled_from(sorted(STORIES)))]
    plain = {**record, "flavor": "1", "memory_mb": 512}
    found = [{**draw(steps()), **plain, "kind": kind} for kind in before]
    at = ONE + dt.timedelta(seconds=draw(st.integers(0, 900)))
    return [*found, {**draw(steps()), **plain, "kind": "exists", "end": True, "at": at}]


@st.composite
def accidents(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = draw(st.lists(steps(), min_size=1, max_size=9))
    if draw(st.integers(0, 4)):  # else the record of the day's end was lost
        end = draw(steps())
        found.append(
            {**end, "kind": "exists", "end": True, "at": ONE + dt.timedelta(seconds=draw(st.integers(0, 900)))}
        )
    return found


instances = st.one_of(accidents(), stories())


def dated(which: str, at: dt.datetime, form: int) -> Any:
    moments = {"before": DAY - 9 * ONE, "today": DAY + dt.timedelta(hours=5), "after": at + dt.timedelta(hours=30)}
    return {"null": None, "empty": ""}.get(which, written(moments[which], form) if which in moments else None)


def notification(instance: str, step: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    at, form = DAY + step["at"], step["form"]
    plain = ("state", "flavor", "memory_mb", "weight", "display_name")
    payload: dict[str, Any] = {"instance_id": instance, **{name: step[name] for name in plain}}
    payload["image_meta"] = {"org.openstack__1__os_distro": "org.debian"}
    for name in ("launched", "deleted"):
        if step[name] != "missing":
            payload[f"{name}_at"] = dated(step[name], at, form)
    if step["kind"] == "exists":
        payload["audit_period_beginning"] = written(DAY, form)
        payload["audit_period_ending"] = written(DAY + ONE if step.get("end") else at, form)
        if step["lag"] == 7:
            payload["audit_period_beginning"] = None
    return {
        "event_type": f"{PREFIX}{step['kind']}",
        "message_id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
        "timestamp": written(at, form),
        "publisher_id": "compute.host",
        "_context_tenant": "t",
        "payload": payload,
    }


def delivered(day: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A day's notifications in the order in which they come."""
    dice = random.Random(len(day))
    # So that the first tells the day: it is none of an instance.
    first = {**notification("x", {**day[0][0], "at": dt.timedelta(0), "form": 0}, dice), "event_type": "image.update"}
    coming: list[tuple[dt.datetime, dict[str, Any]]] = []
    for number, found in enumerate(day):
        for step in found:
            made = notification(f"instance-{number}", step, dice)
            comes = DAY + step["at"] + dt.timedelta(seconds=step["lag"])
            coming.append((comes, made))
            if step["twice"]:
                coming.append((comes + dt.timedelta(seconds=5 * step["lag"]), made))
    return [first, *(made for _, made in sorted(coming, key=lambda each: each[0]))]


# ---------------------------------------------------------------------- both


@pytest.fixture(scope="module")
def configurations(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Configuration]:
    """By whether streams fire on the record of the day's end only."""
    made = {}
    for at_the_end in (False, True):
        home = tmp_path_factory.mktemp("winchester")
        for name, text in FILES.items():
            extra = AT_THE_END if at_the_end and name == "triggers.yaml" else ""
            (home / name).write_text(text + extra)
        made[at_the_end] = read_configuration(home / "winchester.yaml")
    return made


def came(report: dict[str, Any]) -> dict[str, Any]:
    return {
        instance: (
            each["final"],
            Counter(
                (
                    result["result"],
                    result["error_code"],
                    dt.datetime.fromisoformat(result["timestamp"]),
                    result["original_message_id"],
                    result["message_id"] if result["original_message_id"] else None,
                    result["warnings"],
                )
                for result in each["results"]
            ),
        )
        for instance, each in report["instances"].items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("fires", ["on each record", "at the end"])
@pytest.mark.parametrize("how", ["batch", "interleave"])
@given(day=st.lists(instances, min_size=8, max_size=16))
@settings(
    max_examples=DAYS,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # making a day smaller takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_odd_days_give_what_the_rules_say(
    configurations: dict[bool, Configuration],
    tmp_path_factory: pytest.TempPathFactory,
    how: str,
    fires: str,
    day: list[list[dict[str, Any]]],
) -> None:
    interleave, at_the_end = how == "interleave", fires == "at the end"
    lines = delivered(day)
    path: Path = tmp_path_factory.mktemp("day") / "day.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    report = replay(configurations[at_the_end], path, interleave=interleave)
    expected = Rules(interleave=interleave, at_the_end=at_the_end).run(lines)
    found = came(report)
    assert set(found) == set(expected)
    for instance, (final, results) in expected.items():
        assert found[instance][1] == results, instance
        assert final in (..., found[instance][0]), instance
