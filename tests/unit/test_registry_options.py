"""Registration options."""

from __future__ import annotations

import ipaddress
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.errors import InvalidInput, UnsupportedOption
from eventproc.model import (
    Concurrency,
    Isolation,
    Limits,
    NetworkGrant,
    NetworkPolicy,
    Options,
    Place,
    Policy,
    Rate,
    Retries,
)
from eventproc.registry.durations import format_duration, parse_duration, parse_rate, parse_size
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


def test_more_than_the_sandbox_gives_is_read_and_written_alike():
    options = parse_options(
        {
            "processes": 100,
            "scratch": {"size": "1GiB", "files": 50},
            "output": "2MiB",
            "result": "3MiB",
            "allow_subprocess": True,
            "network": ["API.Example.com.:443", "[2001:4860:4860::8888]:53", "api.example.com:443"],
        }
    )
    assert options.limits == Limits(
        processes=100, scratch_bytes=1 << 30, scratch_files=50, output_bytes=2 << 20, result_bytes=3 << 20
    )
    assert options.allow_subprocess
    assert options.network == ("api.example.com:443", "[2001:4860:4860::8888]:53")
    assert parse_options(options_to_json(options)) == options
    assert parse_options({"scratch": "1GiB"}).limits.scratch_bytes == 1 << 30


@pytest.mark.parametrize(
    "text",
    [
        *("example.com", "https://example.com:443", "example.com:0", "example.com:70000", "a b:1", ":80", "-x.com:80"),
        *("1.2.3:80", "user@example.com:80", "::1:80", "*:80", "exa_mple..com:80", "x" * 300 + ":1", "full:x", 5, None),
    ],
)
def test_a_place_that_is_none_is_refused_with_an_example(text):
    with pytest.raises(InvalidInput, match=r"example\.com|neither"):
        parse_options({"network": [text]})


@pytest.mark.parametrize("value", [True, 7, {"a": 1}])
def test_a_network_that_names_no_places_is_refused(value):
    with pytest.raises(InvalidInput, match=r"api\.example\.com:443"):
        parse_options({"network": value})


@pytest.mark.parametrize(
    ("given", "policy", "says"),
    [
        ({"network": ["example.com:80"]}, Policy(network=NetworkPolicy(grant=NetworkGrant.NONE)), "policy.network"),
        ({"network": ["10.0.0.1:80"]}, Policy(), "not on the public internet"),
        ({"network": ["127.0.0.1:80"]}, Policy(), "not on the public internet"),
        ({"network": ["169.254.169.254:80"]}, Policy(), "not on the public internet"),
        ({"network": ["[::ffff:10.0.0.1]:80"]}, Policy(), "not on the public internet"),
        ({"network": ["224.0.0.1:80"]}, Policy(network=NetworkPolicy(grant=NetworkGrant.ANY)), "no host's address"),
        ({"network": "full"}, Policy(network=NetworkPolicy(grant=NetworkGrant.ANY)), '"full"'),
        ({"allow_subprocess": True}, Policy(allow_subprocess=False), "policy.allow_subprocess"),
        ({"allow_subprocess": True, "isolation": "cell"}, Policy(), 'isolation="run"'),
        ({"processes": 2, "isolation": "cell"}, Policy(), 'isolation="cell" takes 3'),
    ],
)
def test_what_the_operator_does_not_grant_is_refused_and_says_so(given, policy, says):
    with pytest.raises(UnsupportedOption, match=re.escape(says)):
        parse_options(given, policy=policy)


def test_the_operator_can_grant_single_places():
    policy = Policy(network=NetworkPolicy(grant=NetworkGrant.NONE, hosts=("10.0.0.1:5432", "*.corp.example:*")))
    granted = parse_options({"network": ["10.0.0.1:5432", "db.corp.example:80"]}, policy=policy)
    assert granted.network == ("10.0.0.1:5432", "db.corp.example:80")
    for other in ("10.0.0.1:80", "corp.example:80", "dbcorp.example:80"):
        with pytest.raises(UnsupportedOption):
            parse_options({"network": [other]}, policy=policy)


@pytest.mark.parametrize("grant", [NetworkGrant.PUBLIC, NetworkGrant.ANY])
@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "fe80::1", "fd00:ec2::254", "100.100.100.200", "::ffff:169.254.169.254", "0.0.0.0"),
        *("2002:a9fe:a9fe::1", "64:ff9b::a9fe:a9fe", "255.255.255.255", "ff02::1"),
    ],
)
def test_a_name_never_leads_to_where_only_the_host_may_look(grant, address):
    policy = NetworkPolicy(grant=grant)
    assert policy.refusal(Place("evil.example", 80), ipaddress.ip_address(address))
    assert policy.refusal(Place("evil.example", 80), ipaddress.ip_address("8.8.8.8")) is None


def test_an_address_of_the_link_is_reached_where_both_say_so():
    policy = NetworkPolicy(grant=NetworkGrant.ANY)
    assert policy.refusal(Place("169.254.169.254", 80)) is None
    assert NetworkPolicy().refusal(Place("169.254.169.254", 80))


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
def test_durations_read_back_what_is_written(number):
    assert parse_duration(format_duration(number), "x") == number


@given(st.text(max_size=20))
def test_no_text_makes_the_parsers_fail_in_another_way(text):
    for parse in (parse_duration, parse_size):
        try:
            value = parse(text, "x")
        except InvalidInput:
            continue
        assert value > 0


@pytest.mark.parametrize("value", [10**400, 1e300, "9" * 400, "9" * 400 + "d", "37000d", 2**63])
def test_a_duration_that_no_time_can_hold_is_refused(value):
    with pytest.raises(InvalidInput, match=r"more than 100 years|no duration"):
        parse_duration(value, "keep")


@pytest.mark.parametrize("value", [10**400, 1e300, "9" * 400, "9" * 400 + "GB", 2**63])
def test_a_size_that_no_machine_can_hold_is_refused(value):
    with pytest.raises(InvalidInput, match="no size"):
        parse_size(value, "memory")


@pytest.mark.parametrize("value", [f"{2**31}/s", "9" * 5000 + "/s", "0/s"])
def test_a_rate_that_is_none_is_refused(value):
    with pytest.raises(InvalidInput, match="no rate"):
        parse_rate(value, "rate")
