"""What a child is given beyond the default, as far as its handler asks for it and the operator grants it."""

from __future__ import annotations

import signal
from dataclasses import replace

import structlog

from eventproc.abc import Program
from eventproc.model import FULL_NETWORK, Failure, NetworkGrant, Place, Policy
from eventproc.sandbox.cgroups import Groups, Unavailable, look_whether_divisible, own_group
from eventproc.sandbox.dialer import Dialer
from eventproc.sandbox.layers import PLACES
from eventproc.sandbox.link import ProcessLink
from eventproc.sandbox.orders import Order

log = structlog.get_logger(__name__)

NEEDS_A = (
    "allow_subprocess=True needs a sandbox of level A, with namespaces that end all processes of a run and bound "
    "what they use together; this host has level {level} (`eventproc doctor` says why)"
)


def refusal(program: Program, level: str | None, policy: Policy, *, no_places: str = "") -> Failure | None:
    """Say why a program may not run here as it was registered; the operator's word may have changed since then."""
    reason = _reason(program, level, policy, no_places)
    return Failure(kind="load", message=f"{program.name} can not run here: {reason}") if reason else None


def _reason(program: Program, level: str | None, policy: Policy, no_places: str) -> str | None:
    if program.allow_subprocess:
        if not policy.allow_subprocess:
            return "the operator does not grant allow_subprocess (setting policy.allow_subprocess)"
        if level != "A":
            return NEEDS_A.format(level=level or "none")
    if program.network == FULL_NETWORK:
        full = policy.network.grant is NetworkGrant.FULL
        return None if full else 'the operator does not grant network="full" (setting policy.network)'
    if program.network and no_places:
        return f"{PLACES}: {no_places}"
    reasons = (policy.network.refusal(Place.parse(text)) for text in program.network)
    return next((reason for reason in reasons if reason), None)


class Equipment:
    """Gives a started child what its order says, before it has loaded anything."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._groups: Groups | None = None
        self._looked = False

    def give(self, link: ProcessLink, order: Order) -> None:
        if order.places and link.asking >= 0:
            dialer = Dialer(link.take_asking(), order.places, self._policy.network, link.note)
            link.at_end(dialer.stop)
        if order.programs:
            self._put_into_group(link, order)

    def _put_into_group(self, link: ProcessLink, order: Order) -> None:
        groups = self._find_groups()
        if groups is None:
            return
        try:
            group = groups.put(link.pid, order.limits)
        except OSError as error:
            log.warning("a handler was not put into a control group; its monitor bounds it alone", error=str(error))
            return
        link.judge = lambda ending: (
            replace(ending, limit="memory") if ending.signal == signal.SIGKILL and group.overrun() else ending
        )
        link.at_end(group.remove)
        link.grouped = True

    def _find_groups(self) -> Groups | None:
        if not self._looked:
            self._looked = True
            try:
                self._groups = Groups.find()
            except Unavailable as reason:
                log.info("no control groups around handlers with allow_subprocess", reason=str(reason))
        return self._groups


def groups_found() -> str:
    """Say for people whether a worker that is started where this process was can have control groups."""
    try:
        base = own_group()
        look_whether_divisible(base)
    except Unavailable as reason:
        return (
            f"no control groups for a worker that is started here ({reason}): of handlers with allow_subprocess the "
            "monitor adds up memory 20 times a second, and the kernel counts processes by user"
        )
    return f"control groups below {base} bound memory and processes of handlers with allow_subprocess"
