"""Checks of names, tags, ids, keys and mail addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.errors import InvalidInput
from eventproc.registry.checks import (
    check_event_id,
    check_hook_name,
    check_key,
    check_mails,
    check_name,
    check_tags,
    check_trace_parent,
    mail_addresses,
)


@pytest.mark.parametrize(
    "text",
    [
        "a@example.com",
        "first.last+tag@mail.example.co.uk",
        "a@example.com, b@example.org",
        " a@example.com ",
        "root@localhost",
        "jürgen@example.com".replace("ü", "ue"),
        "post@müller.example",
        "o'brien@example.com",
        "x@xn--mller-kva.example",
    ],
)
def test_plain_addresses_are_taken(text):
    assert mail_addresses(check_mails(text, "notify_on_success")) == tuple(part.strip() for part in text.split(","))


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "@example.com",
        "a@",
        "a@b",
        "a@b@example.com",
        "a b@example.com",
        "a@exa mple.com",
        "a@example..com",
        ".a@example.com",
        "a.@example.com",
        "a..b@example.com",
        "a@-example.com",
        "a@example.com.",
        "a@[127.0.0.1]",
        "a@127.0.0.1",
        "Ada <a@example.com>",
        '"a"@example.com',
        "a@example.com,",
        "a@example.com; b@example.com",
        "a@example.com\nBcc: x@example.com",
        "a@example.com\r\n",
        "a\x00@example.com",
        "ü@example.com",
        "a@" + "x" * 64 + ".com",
        "a" * 65 + "@example.com",
        "a@" + ".".join(["x" * 60] * 5),
        ",".join(["a@example.com"] * 21),
        "a@exam\ud800ple.com",
    ],
)
def test_anything_else_is_refused_with_the_address(text):
    if text == "a@example.com\r\n":
        assert check_mails(text, "x") == "a@example.com"  # blanks around the whole are no content
        return
    with pytest.raises(InvalidInput, match="notify_on_failure"):
        check_mails(text, "notify_on_failure")


@given(st.text(max_size=60))
def test_no_accepted_address_can_break_a_mail_header(text):
    try:
        checked = check_mails(text, "x")
    except InvalidInput:
        return
    assert checked is None or not set(checked) & set('\r\n\x00<>"')


def test_no_address_means_no_notice():
    assert check_mails(None, "x") is None
    assert check_mails("  ", "x") is None
    assert mail_addresses(None) == ()
    with pytest.raises(InvalidInput, match="must be a text"):
        check_mails(["a@example.com"], "x")


def test_tags_keep_their_order_and_lose_doubles():
    assert check_tags(["b", "a", "b"]) == ("b", "a")
    assert check_tags(None) == check_tags([]) == ()


def test_ten_thousand_tags_are_refused_with_the_limit():
    with pytest.raises(InvalidInput, match="10000 tags, the limit is 100"):
        check_tags([f"t{n}" for n in range(10_000)])


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ("demo", r"write \['demo'\]"),
        (3, "list of texts"),
        (["a", ""], r"tags\[1\] is empty"),
        (["a\nb"], r"tags\[0\].*\\n"),
        (["x" * 201], "201 characters, the limit is 200"),
        ([None], r"tags\[0\] must be a text"),
        (["\ud800"], r"tags\[0\]"),
    ],
)
def test_bad_tags_are_refused_by_place(tags, text):
    with pytest.raises(InvalidInput, match=text):
        check_tags(tags)


def test_tags_may_be_in_any_language():
    assert check_tags(["Übersicht", "測定", "a b"]) == ("Übersicht", "測定", "a b")


@pytest.mark.parametrize("name", ["model.defined", "a", "ctingress.on_complete", "a-b:c/d.e_1"])
def test_hook_names_that_are_good(name):
    assert check_hook_name(name) == name


@pytest.mark.parametrize("name", ["", ".a", "a.", "a b", "a*", "a\n", "ä", None, "x" * 201])
def test_hook_names_that_are_not(name):
    with pytest.raises(InvalidInput):
        check_hook_name(name)


def test_wildcards_are_for_specs_and_handlers():
    assert check_hook_name("compute.*", glob=True) == "compute.*"
    assert check_hook_name("*", glob=True) == "*"
    assert check_hook_name("a.[bc]?", glob=True) == "a.[bc]?"


def test_names_ids_and_keys_are_texts_within_their_length():
    assert check_name("spike report") == "spike report"
    assert check_event_id("x" * 255) == "x" * 255
    assert check_key(None) is None
    for call in (
        lambda: check_name(" a"),
        lambda: check_name("a\tb"),
        lambda: check_event_id("x" * 256),
        lambda: check_event_id(""),
        lambda: check_event_id("a\x00b"),
        lambda: check_key(3),
        lambda: check_key("\ud800"),
    ):
        with pytest.raises(InvalidInput):
            call()


def test_trace_parents_are_those_of_w3c():
    good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert check_trace_parent(good) == good
    for bad in (
        "",
        "x",
        good.upper(),
        good[:-1],
        "ff" + good[2:],
        good.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
    ):
        with pytest.raises(InvalidInput, match="traceparent"):
            check_trace_parent(bad)
