"""The options that ask for more than the sandbox gives by itself, and whether the operator grants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eventproc.errors import InvalidInput, UnsupportedOption
from eventproc.model import FULL_NETWORK, Isolation, NetworkGrant, Options, Place, Policy

MAX_PLACES = 50
CELL_PROCESSES = 3  # the loaded one, a run's, and the one that waits for the next run
_HOW = 'write the places it connects to, such as network=["api.example.com:443", "10.0.0.5:5432"]'


def parse_allow_subprocess(options: Options, value: Any) -> Options:
    if not isinstance(value, bool):
        raise InvalidInput(f"option 'allow_subprocess': {value!r} is neither True nor False", option="allow_subprocess")
    return replace(options, allow_subprocess=value)


def parse_network(options: Options, value: Any) -> Options:
    """Take a list of `host:port`, one such text, or "full"; False is none."""
    if value is False:
        return replace(options, network=())
    if value == FULL_NETWORK[0] or value == list(FULL_NETWORK):
        return replace(options, network=FULL_NETWORK)
    if value is True or not isinstance(value, str | Sequence):
        raise InvalidInput(f"option 'network': {value!r}; {_HOW}", option="network")
    texts = [value] if isinstance(value, str) else list(value)
    if len(texts) > MAX_PLACES:
        raise InvalidInput(f"option 'network': {len(texts)} places; at most {MAX_PLACES}", option="network")
    return replace(options, network=tuple(dict.fromkeys(map(_place, texts))))


def _place(text: Any) -> str:
    if not isinstance(text, str):
        raise InvalidInput(f"option 'network': {text!r}; {_HOW}", option="network")
    if "://" in text:
        raise InvalidInput(f"option 'network': {text!r} is a URL; {_HOW}", option="network")
    try:
        return str(Place.parse(text))
    except InvalidInput as error:
        raise InvalidInput(f"option 'network': {error.message}", option="network") from None


def check_powers(options: Options, policy: Policy) -> None:
    """Raise UnsupportedOption for what the operator does not grant or what does not go together."""
    if options.allow_subprocess:
        if not policy.allow_subprocess:
            raise UnsupportedOption(
                "option 'allow_subprocess': the operator does not grant it (setting policy.allow_subprocess)",
                option="allow_subprocess",
            )
        if options.isolation is Isolation.CELL:
            raise UnsupportedOption(
                "option 'allow_subprocess': not with isolation=\"cell\", where a run's processes could outlive it; "
                'use isolation="run"',
                option="allow_subprocess",
            )
    if options.isolation is Isolation.CELL and options.limits.processes < CELL_PROCESSES:
        raise UnsupportedOption(
            f"option 'processes': isolation=\"cell\" takes {CELL_PROCESSES}: the loaded process, a run's, "
            "and the one that waits for the next run",
            option="processes",
        )
    if options.network == FULL_NETWORK:
        if policy.network.grant is not NetworkGrant.FULL:
            raise UnsupportedOption(
                f"option 'network': the operator does not grant \"full\" (setting policy.network); {_HOW}",
                option="network",
            )
        return
    for text in options.network:
        reason = policy.network.refusal(Place.parse(text))
        if reason is not None:
            raise UnsupportedOption(f"option 'network': {text!r} can not be had: {reason}", option="network")
