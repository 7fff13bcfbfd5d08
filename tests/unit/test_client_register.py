"""`register` without a connection only marks; what was said wrong is told at once."""

from __future__ import annotations

import datetime as dt
import functools

import pytest

from eventproc import Connection, Handler, register
from eventproc.client.handlers import OPTION_NAMES
from eventproc.errors import InvalidInput
from eventproc.model.marks import HANDLER_MARK, HandlerMark, marks_of


def test_the_function_comes_back_unchanged_and_marked():
    def handler(db, **payload):
        return 1

    same = register(
        name="report",
        hook="a.b",
        notify_on_success="a@example.com",
        notify_on_failure="b@example.com",
        tags=["x"],
        timeout=dt.timedelta(seconds=90),
        retries={"max": 3},
    )(handler)
    assert same is handler
    assert same(None) == 1
    assert marks_of(handler) == (
        HandlerMark(
            name="report",
            hook="a.b",
            notify_on_success="a@example.com",
            notify_on_failure="b@example.com",
            tags=("x",),
            options={"timeout": 90.0, "retries": {"max": 3}},
        ),
    )


def test_the_name_is_the_functions_unless_given():
    @register(hook="a.b")
    def spike_report(db): ...

    @register(hook="a.b")
    class DoorWatch:
        def handle_events(self, events, env): ...

    assert marks_of(spike_report)[0].name == "spike-report"
    assert marks_of(DoorWatch)[0].name == "DoorWatch"


def test_marks_are_not_inherited():
    @register(hook="a.b")
    class Parent:
        def handle_events(self, events, env): ...

    class Child(Parent):
        pass

    assert len(marks_of(Parent)) == 1
    assert marks_of(Child) == ()


def test_a_second_mark_is_added():
    @register(hook="a.b")
    @register(hook="c.d")
    def handler(db): ...

    assert [mark.hook for mark in marks_of(handler)] == ["c.d", "a.b"]


def test_every_option_of_the_handbook_is_known():
    assert set(OPTION_NAMES) == {
        *("timeout", "cpu", "memory", "files", "retries", "filter", "order_by", "concurrency", "rate", "network"),
        *("allow_subprocess", "requirements", "secrets", "isolation", "throttle"),
        *("processes", "scratch", "output", "result"),
    }


def test_an_unknown_option_names_the_near_one():
    with pytest.raises(TypeError, match="unexpected option 'timout'; did you mean 'timeout'"):
        register(hook="a.b", timout=3)
    with pytest.raises(TypeError, match="there are timeout, cpu"):
        register(hook="a.b", zzz=3)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (register, "with parentheses"),
        (lambda f: register("report", "a.b"), "first argument is a Connection"),
        (register(), "say which hook"),
        (register(hook="a.b", tags="demo"), r"tags=\['demo'\]"),
        (lambda f: register(hook="a.b")(lambda db: 1), "no name of its own"),
        (lambda f: register(hook="a.b")("text"), "a function or a class, not str"),
        (lambda f: register(hook="a.b", name="x")(len), "can not be marked"),
    ],
)
def test_mistakes_are_told_at_once(use, words):
    def handler(db): ...

    with pytest.raises(InvalidInput, match=words):
        use(handler)


def test_partials_can_be_marked():
    handler = register(hook="a.b", name="half")(functools.partial(lambda x, db: x, 1))
    assert marks_of(handler)[0].name == "half"
    assert HANDLER_MARK in vars(handler)


def test_a_handler_is_a_plain_tuple_with_aware_times():
    data = {
        "id": 3,
        "name": "sample",
        "hook": "a.b",
        "version": 0,
        "notify_on_success": None,
        "notify_on_failure": "f@example.com",
        "tags": ["x"],
        "created_at": "2020-10-21T21:35:20.365664Z",
        "created_by": "allen",
        "updated_at": "2020-10-21T23:35:20.365664+02:00",
        "updated_by": "allen",
        "paused": False,
    }
    found = Handler.from_json(data)
    assert found.created_at == found.updated_at == dt.datetime(2020, 10, 21, 21, 35, 20, 365664, tzinfo=dt.UTC)
    assert found.updated_at.tzinfo is dt.UTC
    assert repr(found).startswith("Handler(id=3, name='sample', hook='a.b', version=0, notify_on_success=None")


def test_a_connection_can_not_be_pickled():
    import pickle

    with pytest.raises(TypeError, match="does not travel"):
        pickle.dumps(Connection("localhost:1", "k"))
