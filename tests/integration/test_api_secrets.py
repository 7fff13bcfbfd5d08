"""Secrets over HTTP: they come in, and never go out."""

from __future__ import annotations

import dataclasses

import pytest

from eventproc import Connection
from eventproc.errors import MissingSecret
from eventproc.service.context import ServiceContext
from eventproc.service.vault import Vault

VALUE = "s3cr3t-value"


@pytest.fixture
def service_context(service_context: ServiceContext) -> ServiceContext:
    return dataclasses.replace(service_context, vault=Vault.random())


def test_a_secret_is_listed_by_name_and_its_value_is_shown_to_nobody(api):
    client = api.client("developer")
    set_ = client.put("/secrets/TOKEN", json={"value": VALUE})
    assert set_.status_code == 200
    assert set_.json()["warnings"] == []
    listed = client.get("/secrets")
    (item,) = listed.json()["items"]
    assert (item["name"], set(item)) == ("TOKEN", {"name", "created_at", "updated_at"})
    again = client.put("/secrets/TOKEN", json={"value": VALUE + "2"}).json()
    assert again["created_at"] == item["created_at"]
    assert again["updated_at"] > item["updated_at"]
    audit = api.client("admin").get("/audit").text
    assert "secret.set" in audit
    assert "secret:developer/TOKEN" in audit
    for text in (set_.text, listed.text, audit):
        assert VALUE not in text


def test_it_can_be_deleted_once(api):
    client = api.client("developer")
    client.put("/secrets/TOKEN", json={"value": VALUE})
    assert client.delete("/secrets/TOKEN").json() == {"name": "TOKEN", "deleted": True}
    gone = client.delete("/secrets/TOKEN")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")
    assert client.get("/secrets").json()["items"] == []


def test_users_have_their_own_and_an_admin_lists_and_deletes_those_of_others(api):
    api.client("developer").put("/secrets/TOKEN", json={"value": VALUE})
    admin = api.client("admin")
    assert admin.get("/secrets").json()["items"] == []
    assert [item["name"] for item in admin.get("/secrets?user=developer").json()["items"]] == ["TOKEN"]
    assert admin.get("/secrets?user=nobody").status_code == 404
    assert admin.delete("/secrets/TOKEN").status_code == 404
    assert admin.delete("/secrets/TOKEN?user=developer").status_code == 200


@pytest.mark.parametrize("role", ["viewer", "emitter"])
def test_who_may_not_register_has_no_secrets(api, role):
    client = api.client(role)
    assert client.put("/secrets/TOKEN", json={"value": VALUE}).status_code == 403
    assert client.get("/secrets").status_code == 403
    assert client.delete("/secrets/TOKEN").status_code == 403


def test_a_developer_does_not_reach_others(api):
    client = api.client("developer")
    assert client.get("/secrets?user=admin").status_code == 403
    assert client.delete("/secrets/TOKEN?user=admin").status_code == 403
    assert client.post("/secrets/rotate").status_code == 403


@pytest.mark.parametrize("name", ["1ST", "A-B", "Ä", "A" * 101, "A%20B"])
def test_a_name_that_is_none_is_refused(api, name):
    answer = api.client("developer").put(f"/secrets/{name}", json={"value": VALUE})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid")


@pytest.mark.parametrize(
    "body",
    [
        b'{"value": ""}',
        b'{"value": 12345678}',
        b'{"value": ["s3cr3t-value"]}',
        b'{"value": "s3cr3t-value\\u0000"}',
        b'{"value": "s3cr3t-value\\ud800"}',
        b'{"value": "' + b"s3cr3t-value" * 5000 + b'"}',
        b'{"valeu": "s3cr3t-value"}',
        b'{"value": "s3cr3t-value", "more": 1}',
        b'{"value": "s3cr3t-value"',
        b"{}",
    ],
)
def test_a_value_that_is_none_is_refused_and_not_repeated(api, body):
    headers = {"Content-Type": "application/json"}
    answer = api.client("developer").put("/secrets/TOKEN", content=body, headers=headers)
    assert answer.status_code == 400
    assert VALUE not in answer.text
    assert "12345678" not in answer.text


def test_a_short_value_is_taken_with_a_warning(api):
    answer = api.client("developer").put("/secrets/PIN", json={"value": "123"}).json()
    assert "under 4 characters" in answer["warnings"][0]


def test_a_registration_names_the_secret_that_is_missing(api, registration):
    def handler(db, **kwargs): ...

    client = api.client("developer")
    body = registration(handler, options={"secrets": ["TOKEN", "OTHER"]})
    client.put("/secrets/OTHER", json={"value": VALUE})
    refused = client.post("/handlers", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "missing_secret")
    assert "'TOKEN'" in refused.json()["error"]["message"]
    client.put("/secrets/TOKEN", json={"value": VALUE})
    done = client.post("/handlers", json=body)
    assert done.status_code in (200, 201)
    assert done.json()["options"]["secrets"] == ["TOKEN", "OTHER"]
    assert VALUE not in done.text


@pytest.mark.parametrize("secrets", ["TOKEN", {"TOKEN": VALUE}, [1], ["a b"], [VALUE], ["A"] * 51, True])
def test_a_declaration_that_is_none_is_refused_without_repeating_it(api, registration, secrets):
    def handler(db, **kwargs): ...

    answer = api.client("developer").post("/handlers", json=registration(handler, options={"secrets": secrets}))
    assert answer.status_code == 400
    assert VALUE not in answer.text


def test_the_client_sets_lists_and_deletes(api):
    with Connection(api.url, api.keys["developer"]) as conn:
        conn.set_secret("TOKEN", VALUE)
        assert [item["name"] for item in conn.secrets()] == ["TOKEN"]

        def handler(db, **kwargs): ...

        conn.register(handler, hook="door.opened", secrets=["TOKEN"])
        with pytest.raises(MissingSecret, match="'MISSING'"):
            conn.register(handler, hook="door.opened", secrets=["MISSING"])
        conn.delete_secret("TOKEN")
        assert conn.secrets() == []


def test_rotating_the_key_is_for_admins_and_says_how_many(api):
    api.client("developer").put("/secrets/TOKEN", json={"value": VALUE})
    assert api.client("admin").post("/secrets/rotate").json() == {"rotated": 1}
