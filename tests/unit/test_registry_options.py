"""Registration options."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.errors import InvalidInput, UnsupportedOption
from eventproc.model import Concurrency, Isolation, Limits, Options, Rate, Retries
from eventproc.registry.durations import format_duration, format_size, parse_duration, parse_size
from eventproc.registry.options import MaxLimits, options_to_json, parse_options


def test_no_options_are_the_defaults():
    assert parse_options(None) == parse_options({}) == parse_options({"timeout": None}) == Options()


def test_every_option_reads_its_short_and_its_long_form():
    short = parse_options(
        {
            "timeout": "1m30s",
            "cpu": 10,
            "memory": "512MB",
            "files": "10MiB",
            "retries": 3,
            "filter": {"value": [{"numeric": [">", 1]}]},
            "order_by": "metric.name",
            "concurrency": 2,
            "rate": "10/m",
            "isolation": "batch",
            "throttle": "10m",
        }
    )
    assert short == Options(
        limits=Limits(timeout_s=90, cpu_s=10, memory_bytes=512_000_000, file_bytes=10 << 20, upload_bytes=10 << 20),
        retries=Retries(max=3),
        filter={"value": [{"numeric": [">", 1]}]},
        order_by="metric.name",
        concurrency=Concurrency(count=2),
        rate=Rate(count=10, per_s=60),
        isolation=Isolation.BATCH,
        throttle_s=600,
    )
    long = parse_options(
        {
            "files": {"size": 1000, "open": 20, "uploads": "1GB"},
            "retries": {"max": 2, "backoff": "1s", "backoff_max": 60, "jitter": 0},
            "concurrency": {"count": 1, "key": "host"},
            "rate": {"count": 5, "per": "10s", "key": "metric.name"},
        }
    )
    assert long.limits.open_files == 20
    assert long.limits.upload_bytes == 10**9
    assert long.retries == Retries(max=2, backoff_s=1, backoff_max_s=60, jitter=0)
    assert long.concurrency == Concurrency(count=1, key="host")
    assert long.rate == Rate(count=5, per_s=10, key="metric.name")


def test_more_time_brings_as_much_processor_time():
    assert parse_options({"timeout": 600}).limits.cpu_s == 600
    assert parse_options({"timeout": 600, "cpu": 5}).limits.cpu_s == 5
    assert parse_options({"timeout": 5}).limits.cpu_s == Limits().cpu_s


@pytest.mark.parametrize("name", ["network", "allow_subprocess", "requirements"])
def test_what_can_not_be_honoured_is_refused_by_name(name):
    with pytest.raises(UnsupportedOption, match=repr(name)) as caught:
        parse_options({name: True})
    assert caught.value.details["option"] == name
    assert parse_options({name: False}) == Options()


@pytest.mark.parametrize("isolation", Isolation)
def test_each_kind_of_isolation_can_be_asked_for(isolation):
    assert parse_options({"isolation": isolation.value}).isolation is isolation


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"timout": 3}, "unknown option 'timout'; there are: .*timeout"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": "soon"}, "timeout.*'soon'"),
        ({"timeout": "5 parsecs"}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": "inf"}, "timeout"),
        ({"memory": "512 apples"}, "memory"),
        ({"memory": 1000}, "memory.*interpreter"),
        ({"files": {"sice": 3}}, "unknown member 'sice'"),
        ({"retries": -1}, "retries"),
        ({"retries": 1.5}, "retries"),
        ({"retries": True}, "retries"),
        ({"retries": {"backoff": 1}}, "'max'"),
        ({"retries": {"max": 1, "jitter": 2}}, "jitter"),
        ({"filter": {"a": "b"}}, r"filter\.a"),
        ({"filter": 3}, "filter"),
        ({"order_by": "a..b"}, "order_by"),
        ({"order_by": 3}, "order_by"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": {"key": "a"}}, "concurrency"),
        ({"rate": 10}, "rate"),
        ({"rate": "10"}, "rate"),
        ({"rate": "0/m"}, "rate"),
        ({"rate": "10/fortnight"}, "rate"),
        ({"rate": {"count": 3}}, "rate.per"),
        ({"isolation": "vm"}, "isolation.*run, batch, cell"),
        ({"throttle": "0s"}, "throttle"),
    ],
)
def test_a_malformed_option_is_refused_by_name(options, text):
    with pytest.raises(InvalidInput, match=text):
        parse_options(options)


def test_the_operators_maximum_is_named_with_what_was_asked():
    with pytest.raises(InvalidInput, match=r"'timeout': 7,200.* maximum of 3,600") as caught:
        parse_options({"timeout": "2h"})
    assert caught.value.details["limit"] == "timeout_s"
    assert caught.value.details["maximum"] == 3600
    assert parse_options({"timeout": "2h"}, maxima=MaxLimits(timeout_s=7200, cpu_s=7200)).limits.timeout_s == 7200
    with pytest.raises(InvalidInput, match=r"'files.open'"):
        parse_options({"files": {"open": 100_000}})


options = st.fixed_dictionaries(
    {},
    optional={
        "timeout": st.floats(0.1, 3600),
        "memory": st.integers(64 << 20, 8 << 30),
        "retries": st.integers(0, 100)
        | st.builds(lambda n, b: {"max": n, "backoff": b}, st.integers(0, 9), st.floats(0.1, 9)),
        "order_by": st.sampled_from(["key", "metric.name", "none"]),
        "concurrency": st.integers(1, 50) | st.builds(lambda n: {"count": n, "key": "a.b"}, st.integers(1, 9)),
        "rate": st.builds(lambda n, per: f"{n}/{per}s", st.integers(1, 99), st.integers(1, 99)),
        "isolation": st.sampled_from(["run", "cell", "batch"]),
        "throttle": st.integers(1, 99999),
        "filter": st.just({"a": [{"prefix": "x"}]}),
    },
)


@given(options)
def test_options_written_as_json_read_back_the_same(given_options):
    parsed = parse_options(given_options)
    assert parse_options(json.loads(json.dumps(options_to_json(parsed)))) == parsed


@given(st.integers(1, 10**9))
def test_durations_and_sizes_read_back_what_is_written(number):
    assert parse_duration(format_duration(number), "x") == number
    assert parse_size(format_size(number), "x") == number


@given(st.text(max_size=20))
def test_no_text_makes_the_parsers_fail_in_another_way(text):
    for parse in (parse_duration, parse_size):
        try:
            value = parse(text, "x")
        except InvalidInput:
            continue
        assert value > 0
