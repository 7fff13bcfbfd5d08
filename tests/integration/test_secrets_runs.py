"""Secrets in runs: handlers that declare them get them, and nothing that is stored of a run shows them."""

# ruff: noqa: F821 - `ep` is there for handlers

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engine_lab import Lab, lab

from eventproc.abc import Sandbox
from eventproc.codec.blob import pack
from eventproc.errors import Conflict, Forbidden, MissingSecret
from eventproc.model import Role, RunState
from eventproc.sandbox.forkserver import ForkServerSandbox
from eventproc.sandbox.memory import InProcessSandbox
from eventproc.service.context import ServiceContext
from eventproc.service.facade import UseCases
from eventproc.service.vault import Vault
from eventproc.store import open_store

VALUE = "s3cr3t-Tök3n/42 \"x'"
S = RunState


@pytest.fixture(params=["sandboxed", "in process"])
def sandbox(request) -> Sandbox:
    return ForkServerSandbox(allow_unsafe=True) if request.param == "sandboxed" else InProcessSandbox()


@pytest.fixture
def here(sandbox, tmp_path) -> Iterator[Lab]:
    store = open_store(f"sqlite:///{tmp_path}/x.db")
    store.upgrade()
    with lab(store=store, sandbox=sandbox) as made:
        keep(made, "TOKEN", VALUE)
        yield made


def keep(lab: Lab, name: str, value: str, *, user_id: int | None = None) -> None:
    owner = lab.user.id if user_id is None else user_id
    with lab.store.begin() as tx:
        tx.secrets.put(owner, name, lab.vault.encrypt(owner, name, value), now_us=lab.now_us())


def use_cases(lab: Lab) -> UseCases:
    context = ServiceContext(
        store=lab.store,
        bus=lab.bus,
        blobs=lab.blobs,
        sandbox=lab.sandbox,
        clock=lab.clock,
        cache=lab.cache,
        group=lab.group,
        vault=lab.vault,
    )
    return UseCases(context)


def stored(lab: Lab) -> str:
    """Return all that the database holds, as text."""
    with lab.store.begin() as tx:
        tables = tx.work.conn.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
        rows = [tx.work.conn.exec_driver_sql(f'SELECT * FROM "{table}"').all() for table in tables]
    return repr(rows)


def tells(db, how, **kwargs):
    import base64
    import json
    import logging
    import sys
    import urllib.parse

    token = ep.secrets["TOKEN"]
    print("token", token, flush=True)
    for character in token:
        sys.stdout.write(character)
        sys.stdout.flush()
    print()
    print(json.dumps({"t": token}), repr(token), base64.b64encode(f"user:{token}".encode()).decode())
    print(urllib.parse.quote(token), file=sys.stderr)
    logging.getLogger("x").warning("with %s", token)
    if how == "raise":
        raise type(f"Bad{token}", (ValueError,), {})(f"refused {token}") from KeyError(token)
    if how == "exit":
        sys.exit(f"bye {token}")
    if how == "commit":
        ep.on_commit(lambda: [][len(print(token) or token)])
    return {"token": token, token: [f"<{token}>", 1]}


def lines_of(text: str) -> list[str]:
    return text.splitlines()


@pytest.mark.parametrize("isolation", ["run", "batch"])
@pytest.mark.parametrize("how", ["return", "raise", "exit", "commit"])
def test_whatever_a_handler_does_with_a_secret_it_is_not_stored(here, how, isolation):
    here.register(tells, secrets=["TOKEN"], isolation=isolation, failure="a@example.com")
    here.start()
    run = here.result_of(payload={"how": how})
    expected = {"return": S.SUCCEEDED, "raise": S.FAILED, "exit": S.FAILED, "commit": S.COMMIT_FAILED}
    assert run.state is expected[how]
    text = stored(here)
    for form in (VALUE, "s3cr3t-T", "Tök3n/42", "T%C3%B6k3n", "\\u00f6k3n"):
        assert form not in text, form
    logs = here.logs(run.id)
    assert lines_of(logs)[:2] == ["token ***TOKEN***", "***TOKEN***"]
    assert "with ***TOKEN***" in logs
    if how == "return":
        assert run.result_json == '{"token":"***TOKEN***","***TOKEN***":["<***TOKEN***>",1]}'
    elif how == "raise":
        assert "refused ***TOKEN***" in run.failure.message
        assert "***TOKEN***" in run.failure.traceback
        (failed,) = here.events("run.failed")
        assert "refused ***TOKEN***" in failed["failure"]["message"]


def uploads(db, **kwargs):
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        ep.upload_file(file.name, f"for {ep.secrets['PLAIN']}.txt")


def test_the_names_of_uploaded_files_do_not_show_it(here):
    keep(here, "PLAIN", "plain-value")
    here.register(uploads, secrets=["PLAIN"])
    here.start()
    run = here.result_of()
    assert run.state is S.SUCCEEDED
    with here.store.read() as tx:
        assert [file.name for file in tx.files.of_run(run.id)] == ["for ***PLAIN***.txt"]


def asks(db, name, **kwargs):
    try:
        return [len(ep.secrets[name]), sorted(ep.secrets), repr(ep.secrets)]
    except KeyError as error:
        return str(error)


def test_only_what_was_declared_is_there_and_the_error_says_how_to_declare_the_rest(here):
    keep(here, "OTHER", "other-value")
    here.register(asks, secrets=["TOKEN"])
    here.start()
    assert here.result_of(payload={"name": "TOKEN"}).result_json == f'[{len(VALUE)},["TOKEN"],"<secrets [\'TOKEN\']>"]'
    told = here.result_of(payload={"name": "OTHER"}).result_json
    assert "not registered with the secret 'OTHER'" in told
    assert "secrets=['OTHER']" in told


def looks_around(db, **kwargs):
    import gc
    import os
    from pathlib import Path

    found = [len(ep.secrets)]
    for path in ("/proc/self/environ", "/proc/1/environ"):
        try:
            found.append(b"s3cr3t" in Path(path).read_bytes())
        except OSError:
            found.append(False)
    found.append(any("s3cr3t" in value for value in os.environ.values()))
    found.append(any("s3cr3t" + "-T" in each for each in gc.get_objects() if type(each) is str))
    return found


def test_other_handlers_find_nothing_of_it(here):
    here.register(asks, hook="test.one", secrets=["TOKEN"], isolation="batch")
    here.register(looks_around, hook="test.two", isolation="batch")
    here.start(slots=1)
    here.result_of("test.one", {"name": "TOKEN"})
    assert here.result_of("test.two").result_json == "[0,false,false,false,false]"


def test_a_new_value_is_there_with_the_next_run_of_a_warm_child(here):
    here.register(asks, secrets=["TOKEN"], isolation="batch")
    here.start(slots=1)
    here.result_of(payload={"name": "TOKEN"})
    keep(here, "TOKEN", "four")
    assert here.result_of(payload={"name": "TOKEN"}).result_json.startswith("[4,")


def test_a_secret_that_is_gone_fails_the_run_by_name_and_leaves_its_neighbours_alone(here):
    here.register(asks, secrets=["TOKEN"])
    here.register(asks, name="other")
    with here.store.begin() as tx:
        assert tx.secrets.delete(here.user.id, "TOKEN")
    here.start()
    runs = [here.ended(run_id) for run_id in here.emit(payload={"name": "X"}).runs]
    assert sorted(run.state for run in runs) == [S.FAILED, S.SUCCEEDED]
    failure = next(run.failure for run in runs if run.failure)
    assert failure.kind == "secrets"
    assert "'TOKEN'" in failure.message
    assert "eventproc secrets set TOKEN" in failure.message


def test_under_a_wrong_key_the_run_fails_and_names_the_setting(here):
    here.register(asks, secrets=["TOKEN"])
    with here.store.begin() as tx:
        tx.secrets.put(here.user.id, "TOKEN", Vault.random().encrypt(here.user.id, "TOKEN", VALUE), now_us=1)
    here.start()
    failure = here.result_of(payload={"name": "TOKEN"}).failure
    assert failure.kind == "secrets"
    assert "EVENTPROC_SECRET_KEY" in failure.message


def test_rows_that_changed_places_are_not_taken(here):
    with here.store.begin() as tx:
        eve = tx.users.add("eve", Role.DEVELOPER, now_us=1)
        theirs = tx.secrets.values(here.user.id, ["TOKEN"])["TOKEN"]
        tx.secrets.put(eve.id, "TOKEN", theirs, now_us=1)
    here.user = eve
    here.register(asks, secrets=["TOKEN"])
    here.start()
    failure = here.result_of(payload={"name": "TOKEN"}).failure
    assert failure.kind == "secrets"
    assert "changed the database" in failure.message


def test_a_handler_can_be_registered_with_secrets_of_its_owner_only(here):
    use = use_cases(here)
    with here.store.begin() as tx:
        eve = tx.users.add("eve", Role.DEVELOPER, now_us=1)
        root = tx.users.add("root", Role.ADMIN, now_us=1)

    def register(user, name):
        return use.handlers.register(
            user, hook="test.x", name=name, bundle=pack(asks), options={"secrets": ["TOKEN"]}
        ).handler

    with pytest.raises(MissingSecret, match=r"user 'eve' has no secret 'TOKEN'.*eventproc secrets set TOKEN"):
        register(eve, "hers")
    assert register(here.user, "ours").current.options.secrets == ("TOKEN",)
    keep(here, "TOKEN", "root's own", user_id=root.id)
    with pytest.raises(Forbidden, match="only its owner"):
        register(root, "ours")
    assert use.handlers.register(root, hook="test.x", name="ours", bundle=pack(asks)).handler.owner_id == here.user.id


@pytest.mark.parametrize("how", ["return", "raise"])
def test_a_dry_run_does_not_show_it_either(here, how):
    use = use_cases(here)
    record = here.register(tells, secrets=["TOKEN"])
    done = str(use.trials.dry_run(here.user, record.id, payload={"how": how}).to_json())
    assert "s3cr3t" not in done
    assert "token ***TOKEN***" in done


def test_a_change_of_keys_leaves_no_hour_without_secrets(here):
    keys = ["old"]
    here.vault.__dict__.pop("_keys", None)
    here.vault._read_keys = lambda: ",".join(keys)
    use = use_cases(here)
    with here.store.begin() as tx:
        root = tx.users.add("root", Role.ADMIN, now_us=1)

    def restart(*now: str) -> Vault:
        keys[:] = now
        here.vault.__dict__.pop("_keys", None)
        return here.vault

    use.secrets.put(here.user, "TOKEN", VALUE)
    here.register(asks, secrets=["TOKEN"])
    here.start()
    restart("new", "old")
    assert here.result_of(payload={"name": "TOKEN"}).state is S.SUCCEEDED
    assert use.secrets.rotate(root) == 1
    restart("new")
    assert here.result_of(payload={"name": "TOKEN"}).state is S.SUCCEEDED
    restart("old")
    assert here.result_of(payload={"name": "TOKEN"}).failure.kind == "secrets"
    use.secrets.put(here.user, "LATER", VALUE)
    with pytest.raises(Conflict, match=f"1 of 2 secrets .*{here.user.name}/TOKEN. Nothing was changed") as refused:
        use.secrets.rotate(root)
    assert refused.value.details == {"secrets": [f"{here.user.name}/TOKEN"]}
    restart("old", "new")
    assert use.secrets.rotate(root) == 2
