"""Bundles as JSON: what comes in is checked before it is kept, and never unpickled."""

from __future__ import annotations

import base64
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventproc.codec.bundle import bundle_from_json, bundle_to_json, digest_of
from eventproc.errors import EventprocError, HandlerTooLarge, InvalidHandler, InvalidInput
from eventproc.model import HandlerBundle

texts = st.text(min_size=1, max_size=20)
bundles = st.builds(
    lambda blob, **rest: HandlerBundle(blob=blob, digest=digest_of(blob), **rest),
    blob=st.binary(min_size=1, max_size=100),
    python=texts,
    dill=texts,
    source=st.none() | texts,
    filename=st.none() | texts,
    qualname=texts,
    kind=st.sampled_from(["function", "class"]),
    globals=st.lists(texts).map(tuple),
)


def good() -> dict:
    return bundle_to_json(
        HandlerBundle(
            blob=b"blob",
            digest=digest_of(b"blob"),
            python="3.11",
            dill="0.4.1",
            source=None,
            filename=None,
            qualname="f",
        )
    )


@given(bundles)
def test_round_trip(bundle):
    assert bundle_from_json(bundle_to_json(bundle)) == bundle


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blob": None}, "bundle.blob: expected base64 text"),
        ({"blob": "%%%"}, "bundle.blob: not base64"),
        ({"blob": "ä"}, "bundle.blob: not base64"),
        ({"blob": ""}, "bundle.blob: empty"),
        ({"digest": None}, "bundle.digest: expected text, got nothing"),
        ({"python": 3}, "bundle.python: expected text, got 3"),
        ({"source": 1}, "bundle.source: expected text or null"),
        ({"kind": "method"}, "bundle.kind: 'method' is none of function, class"),
        ({"globals": "SECRET"}, "bundle.globals: expected a list of names"),
        ({"globals": [1]}, "bundle.globals: expected a list of names"),
        ({"blobb": "x"}, "bundle: unknown field 'blobb'"),
    ],
)
def test_a_bad_field_is_named(change, words):
    with pytest.raises(InvalidInput) as caught:
        bundle_from_json({**good(), **change})
    assert words in str(caught.value)


def test_a_damaged_blob_is_refused():
    with pytest.raises(InvalidHandler, match="damaged"):
        bundle_from_json({**good(), "blob": base64.b64encode(b"blod").decode()})


def test_a_blob_over_the_limit_is_refused_before_it_is_decoded():
    data = {**good(), "blob": base64.b64encode(bytes(1000)).decode()}
    with pytest.raises(HandlerTooLarge):
        bundle_from_json(data, max_bytes=999)
    with pytest.raises(InvalidHandler, match="damaged"):  # now it is read, and does not fit its digest
        bundle_from_json(data, max_bytes=1000)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_anything_else_is_refused_with_our_own_error(data):
    with pytest.raises(EventprocError):
        bundle_from_json(data)


def test_reading_bundles_imports_no_dill():
    program = "import sys, eventproc.codec.bundle; assert 'dill' not in sys.modules; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
