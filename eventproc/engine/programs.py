"""From a stored handler version to what a sandbox child loads."""

from __future__ import annotations

from eventproc.abc import Program, Tx
from eventproc.codec.bundle import digest_of
from eventproc.errors import DamagedData
from eventproc.model import Environment, HandlerVersion


def environment_of(tx: Tx, version: HandlerVersion) -> Environment | None:
    """Return the packages that the version was registered with."""
    return None if version.environment is None else tx.environments.get(version.environment)


def program_of(version: HandlerVersion, blob: bytes, *, name: str, environment: Environment | None = None) -> Program:
    """
    Return the program of a version and the blob that the store gave for it.

    Raises DamagedData for a blob that is not the one that was registered: what it would do nobody knows.
    """
    if version.environment is not None and environment is None:
        raise DamagedData(
            f"the packages of handler {name!r} version {version.version} are not in the store; register it again",
            handler=version.handler_id,
            version=version.version,
        )
    if digest_of(blob) != version.digest.lower():
        raise DamagedData(
            f"the stored code of handler {name!r} version {version.version} is damaged ({len(blob):,} of "
            f"{version.size:,} bytes, or other ones); register the handler again, then requeue with --current",
            handler=version.handler_id,
            version=version.version,
        )
    return Program(
        blob=blob,
        digest=version.digest,
        python=version.python,
        kind=version.kind,
        name=name,
        source=version.source,
        filename=version.filename,
        environment=environment,
        isolation=version.options.isolation.value,
        allow_subprocess=version.options.allow_subprocess,
        network=version.options.network,
    )
