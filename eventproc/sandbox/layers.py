"""What each layer around a handler is for, and what its absence means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SAFE_LEVELS = ("A", "B")
UNSAFE_LEVELS = ("C", "none")

ABSENCE = {
    "rlimits": "memory, CPU time and files of a handler have no bound",
    "pid namespace": "handlers run among the host's processes; a monitor ends what they start",
    "mount namespace": "handlers see the host's mounts",
    "private root": "handlers see the host's directories; Landlock alone decides what they read",
    "network namespace": "no network of their own; the system call filter alone keeps handlers off the network",
    "ipc namespace": "the system call filter alone keeps handlers off System V memory and queues",
    "capped scratch": "a handler's private directory is on the host's disk; its size is looked at four times a second",
    "user": "handlers run as the worker's own user",
    "no capabilities": "handlers keep the worker's capabilities",
    "no_new_privs": "programs that grant privileges grant them to handlers",
    "landlock": "handlers read and write every file that their user can",
    "seccomp": "handlers may make every system call: start programs, use the network, trace other processes",
}
WITHIN_A_ROOT = {"landlock": "the private root alone decides what handlers read and write"}
PLACES = "network=[…]"
SAME = {"own user": "user", "user namespace": "user"}


def missing_layers(layers: Sequence[str], refused: Mapping[str, str], *, no_places: str = "") -> dict[str, str]:
    """Return the layers that do not stand, with what that means and why the level above could not be had."""
    standing = {SAME.get(layer, layer) for layer in layers}
    meanings = {**ABSENCE, **WITHIN_A_ROOT} if "private root" in standing else ABSENCE
    missing = {layer: meaning for layer, meaning in meanings.items() if layer not in standing}
    for level, reason in refused.items():
        missing[f"level {level}"] = f"not to be had here: {reason}"
    if no_places:
        missing[PLACES] = f"handlers that ask for it are refused: {no_places}"
    return missing
