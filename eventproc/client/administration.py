"""The calls that look after a platform: users, keys, hooks, schedules, notices, series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eventproc.client.calls import Calls, given
from eventproc.client.paths import segment
from eventproc.errors import InvalidInput


class Administration(Calls):
    """The part of a Connection that people who write handlers seldom need."""

    def health(self) -> dict[str, Any]:
        """Return the server's status and version."""
        return self._object("GET", "/health")

    def me(self) -> dict[str, Any]:
        """Return the user whose key this is."""
        return self._object("GET", "/me")

    # hooks

    def hook_specs(self) -> list[dict[str, Any]]:
        """List the hooks with summary, schema and sample."""
        return list(self.pages("/hooks"))

    def put_hook(self, name: str | Mapping[str, Any], **spec: Any) -> dict[str, Any]:
        """
        Add or replace a hook of one's own: summary, schema, sample, keep, keep_idle.

        Instead of its name it may be given as one dict, as in a hook file, with the member `name`.
        """
        if isinstance(name, Mapping):
            spec = {**name, **spec}
            name = spec.pop("name", "")
            if not isinstance(name, str) or not name:
                raise InvalidInput("put_hook: the dict has no member 'name'", path="$.name")
        return self._object("PUT", f"/hooks/{segment(name)}", spec)

    def delete_hook(self, name: str) -> None:
        """Delete a hook of one's own."""
        self.request("DELETE", f"/hooks/{segment(name)}")

    # triggers, pipelines, streams

    def push_triggers(self, text: str, *, name: str = "triggers.yaml", lenient: bool = False) -> dict[str, Any]:
        """Store the triggers of a YAML text, all or none: `triggers`, `changed`, `warnings`."""
        return self._object("POST", "/triggers", {"text": text, "name": name, "lenient": lenient})

    def put_trigger(self, **definition: Any) -> dict[str, Any]:
        """Store one trigger, given by the keys of a triggers.yaml."""
        done = self._object("POST", "/triggers", {"definition": definition})
        trigger: dict[str, Any] = done["triggers"][0]
        return trigger

    def triggers(self) -> list[dict[str, Any]]:
        """List the triggers."""
        return list(self.pages("/triggers"))

    def trigger(self, name: str) -> dict[str, Any]:
        """Return one trigger, and what its checks came to."""
        return self._object("GET", f"/triggers/{segment(name)}")

    def delete_trigger(self, name: str) -> None:
        """Delete a trigger; its streams still fire and expire."""
        self.request("DELETE", f"/triggers/{segment(name)}")

    def explain_trigger(self, name: str, event_id: str) -> dict[str, Any]:
        """Say why a trigger does or does not collect an event, and what its stream lacks to fire."""
        path = f"/triggers/{segment(name)}/explain"
        return self._object("GET", path, params={"event": event_id})

    def pipelines(self) -> list[dict[str, Any]]:
        """List the pipelines."""
        return list(self.pages("/pipelines"))

    def pipeline(self, name: str) -> dict[str, Any]:
        """Return one pipeline with its handlers."""
        return self._object("GET", f"/pipelines/{segment(name)}")

    def deregister_pipeline(self, name: str) -> None:
        """Remove a pipeline; streams that wait for it end in error until they are reset."""
        self.request("DELETE", f"/pipelines/{segment(name)}")

    def dry_run_pipeline(
        self, name: str, *, stream: int | None = None, events: Sequence[Mapping[str, Any]] | None = None
    ) -> dict[str, Any]:
        """
        Run a pipeline on a stored stream or on events with nothing committed: result, failure, logs, effects.

        :param events: each with hook, payload, id and time, or flat as pipelines see them
        """
        body = {"stream": stream, "events": None if events is None else [dict(event) for event in events]}
        return self._object("POST", f"/pipelines/{segment(name)}/dry-run", body)

    def streams(self, *, limit: int | None = 100, **which: Any) -> list[dict[str, Any]]:
        """List streams, newest first: `trigger`, `state`, `trait` (`name:value`), `older_than`, `younger_than`."""
        return list(self.pages("/streams", which, limit))

    def stream(self, stream_id: int, *, events: bool = False) -> dict[str, Any]:
        """Return one stream; with `events`, what it holds."""
        params = {"events": "true"} if events else None
        return self._object("GET", f"/streams/{int(stream_id)}", params=params)

    def reset_streams(self, *ids: int, **which: Any) -> dict[str, Any]:
        """
        Send streams in error through their pipeline again: `count`, up to 1,000 `ids`, `refused` with reasons.

        :param which: instead of ids: `trigger`, `state` (a list), `traits` (a dict), `older_than`, `younger_than`; or
            `all=True`
        """
        return self._object("POST", "/streams/reset", {**({"ids": list(ids)} if ids else {}), **which})

    def delete_streams(self, *ids: int, **which: Any) -> dict[str, Any]:
        """Delete streams that no run works on, chosen as in `reset_streams`; their events stay."""
        return self._object("POST", "/streams/delete", {**({"ids": list(ids)} if ids else {}), **which})

    # users and keys

    def users(self) -> list[dict[str, Any]]:
        """List the users."""
        return list(self.pages("/users"))

    def add_user(self, name: str, role: str) -> dict[str, Any]:
        """Add a user: viewer, emitter, developer or admin."""
        return self._object("POST", "/users", {"name": name, "role": role})

    def update_user(self, name: str, *, role: str | None = None, disabled: bool | None = None) -> dict[str, Any]:
        """Change a user's role, disable or enable them."""
        changes = {"role": role, "disabled": disabled}
        return self._object("PATCH", f"/users/{segment(name)}", given(changes))

    def keys(self, user: str) -> list[dict[str, Any]]:
        """List a user's API keys: prefix, label, last use. The keys themselves are not kept anywhere."""
        return list(self.pages(f"/users/{segment(user)}/keys"))

    def add_key(self, user: str, label: str = "") -> dict[str, Any]:
        """Issue an API key; `key` of the answer is shown this once."""
        return self._object("POST", f"/users/{segment(user)}/keys", {"label": label})

    def revoke_key(self, prefix: str) -> None:
        """Revoke an API key by its prefix."""
        self.request("DELETE", f"/keys/{segment(prefix)}")

    def audit(self, *, limit: int | None = 100) -> list[dict[str, Any]]:
        """List who changed what, newest first."""
        return list(self.pages("/audit", {}, limit))

    # secrets

    def secrets(self, user: str | None = None) -> list[dict[str, Any]]:
        """List the names of one's own secrets, or as an admin of another user's; values never come back."""
        return list(self.pages("/secrets", {"user": user}, None))

    def set_secret(self, name: str, value: str) -> dict[str, Any]:
        """Keep a secret for handlers that are registered with `secrets=[name]`, which find it in `ep.secrets`."""
        return self._object("PUT", f"/secrets/{segment(name)}", {"value": value})

    def delete_secret(self, name: str, user: str | None = None) -> None:
        """Delete a secret of one's own, or as an admin of another user's."""
        self.request("DELETE", f"/secrets/{segment(name)}", params={"user": user} if user else None)

    # schedules

    def schedules(self) -> list[dict[str, Any]]:
        """List the schedules."""
        return list(self.pages("/schedules"))

    def put_schedule(
        self,
        name: str,
        cron: str,
        *,
        timezone: str = "UTC",
        hook: str | None = None,
        tags: Sequence[str] = (),
        payload: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Add or replace a schedule: it emits an event whenever the cron expression is due."""
        body = {"cron": cron, "timezone": timezone, "hook": hook, "tags": list(tags), "payload": payload}
        return self._object("PUT", f"/schedules/{segment(name)}", given(body))

    def schedule(self, name: str) -> dict[str, Any]:
        """Return one schedule."""
        return self._object("GET", f"/schedules/{segment(name)}")

    def delete_schedule(self, name: str) -> None:
        """Delete a schedule."""
        self.request("DELETE", f"/schedules/{segment(name)}")

    # notices and series

    def notices(self, *, run: int | None = None, limit: int | None = 100) -> list[dict[str, Any]]:
        """List the notices (mails), newest first."""
        return list(self.pages("/notices", {"run": run}, limit))

    def notice(self, notice_id: int) -> dict[str, Any]:
        """Return one notice; `mail` is its text."""
        return self._object("GET", f"/notices/{int(notice_id)}")

    def series(
        self, *, collection: str | None = None, name: str | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """List series."""
        return list(self.pages("/series", {"collection": collection, "name": name}, limit))

    def values(self, uuid: str, start: int | None = None, end: int | None = None) -> dict[str, Any]:
        """Return a series' values in [start, end): `times` in nanoseconds and `values`, as lists."""
        return self._object("GET", f"/series/{segment(uuid)}/values", params={"start": start, "end": end})
