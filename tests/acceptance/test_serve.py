"""`eventproc serve` as people and scripts see it: starts, works, states where it is, stops."""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
import signal
import stat
import subprocess
import sys
import urllib.request

import pytest
from serving import Served, alive
from waiting import wait_until

from eventproc import Connection
from eventproc.errors import NotFound

ROLES = ("api", "engine", "worker", "notifier", "listener", "models")


def finished(conn: Connection, count: int) -> list[dict]:
    """Wait for `count` runs in a final state and return them."""

    def look():
        runs = [run for run in conn.runs(limit=None) if run["state"] in ("succeeded", "failed", "commit_failed")]
        return runs if len(runs) >= count else None

    return wait_until(look, timeout_s=60, what=f"{count} finished runs")


def greet(db, who, **kwargs):
    print(f"hello {who}")
    return f"greeted {who}"


def endless(db, **kwargs):
    import time

    print("started", flush=True)
    time.sleep(500)


def start_run(served: Served, handler) -> int:
    """Register a handler, emit its event, and wait until the handler says that it started."""
    conn = served.connect()
    conn.put_hook("work", summary="x", sample={})
    conn.register(handler, hook="work", timeout=600)
    run_id = conn.emit("work", {})["runs"][0]
    wait_until(lambda: "started" in "".join(chunk["text"] for chunk in conn.logs(run_id)), what="the handler to start")
    return run_id


def test_from_nothing_to_a_handler_that_ran_and_a_mail_that_tells_of_it(platform):
    conn = platform.connect()
    conn.put_hook("greeting", summary="Somebody is there.", sample={"who": "you"})
    conn.register(greet, hook="greeting", notify_on_success="a@example.com")
    accepted = conn.emit("greeting", {"who": "Ada"})
    run = conn.wait(accepted["runs"][0])
    assert (run["state"], run["result"]) == ("succeeded", "greeted Ada")
    assert "".join(chunk["text"] for chunk in conn.logs(run["id"])) == "hello Ada\n"
    files = wait_until(lambda: list((platform.data / "mail").glob("*.eml")), what="the mail")
    mail = email.message_from_bytes(files[0].read_bytes(), policy=email.policy.default)
    assert mail["To"] == "a@example.com"
    assert "greeted Ada" in mail.get_body(("plain",)).get_content()


def test_it_says_ready_once_and_states_only_what_is_bound(serve):
    served = serve()
    assert served.said.count("ready") == 1
    assert served.said[-1] == "ready"
    assert list(served.endpoints) == ["http", "graphite", "graphite_udp", "graphite_pickle"]
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*", served.endpoints["http"])
    assert any(served.endpoints["http"] in line for line in served.said)
    with urllib.request.urlopen(f"{served.endpoints['http']}/api/v1/health") as answer:
        assert json.load(answer)["status"] == "ok"


def test_the_commands_it_suggests_work_as_they_are_printed(serve):
    elsewhere = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}  # a terminal that knows nothing of this installation
    served = serve(PATH=elsewhere["PATH"])
    first = served.said.index("Try, in another terminal:") + 1
    suggested = [line.strip() for line in served.said[first:-1]]
    assert len(suggested) >= 4
    done = subprocess.run(
        ["bash", "-ec", "\n".join(suggested)], env=elsewhere, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "no handler matches" in done.stdout


def test_keys_and_the_data_directory_are_for_their_owner_alone(serve):
    served = serve()
    assert stat.S_IMODE(served.data.stat().st_mode) == 0o700
    for name in ("admin.key", "secret.key"):
        assert stat.S_IMODE((served.data / name).stat().st_mode) == 0o600, name
    assert served.connect().me()["role"] == "admin"


def test_no_secret_shows_in_the_logs(serve):
    served = serve(EVENTPROC_SMTP_URL="smtp://me:hunter2@127.0.0.1:9", EVENTPROC_LOG_LEVEL="debug")
    conn = served.connect()
    conn.put_hook("greeting", summary="x", sample={"who": "you"})
    conn.register(greet, hook="greeting", notify_on_success="a@example.com")
    conn.wait(conn.emit("greeting", {"who": "Ada"})["runs"][0])
    wait_until(lambda: any(notice["attempts"] for notice in conn.notices()), what="a try to send the mail")
    served.stop()
    log = served.tail(10_000_000)
    assert "hunter2" not in log
    assert served.key not in log


def test_a_restart_keeps_keys_handlers_and_history(serve):
    served = serve()
    key = served.key
    conn = served.connect()
    conn.put_hook("greeting", summary="x", sample={"who": "you"})
    conn.register(greet, hook="greeting")
    conn.wait(conn.emit("greeting", {"who": "Ada"})["runs"][0])
    assert served.stop() == 0
    served.start()
    assert served.key == key
    conn = served.connect()
    assert [handler.name for handler in conn.list_handlers()] == ["greet"]
    assert conn.wait(conn.emit("greeting", {"who": "Bob"})["runs"][0])["result"] == "greeted Bob"
    assert len(list(conn.runs())) == 2


def test_lost_keys_cost_nothing_but_a_command(serve):
    served = serve()
    lost = served.key
    (served.data / "admin.key").unlink()
    done = served.cli("keys", "recover", "--json")
    told = json.loads(done.stdout)
    file = served.data / "admin.key"
    assert (told["user"], told["file"]) == ("admin", str(file))
    assert served.key != lost
    assert file.stat().st_mode & 0o777 == 0o600
    assert served.key not in done.stdout + done.stderr
    conn = served.connect()  # with what now stands in admin.key
    assert conn.me()["name"] == "admin"
    last = next(iter(conn.audit()))
    assert (last["action"], last["object"]) == ("key.create", f"key:{told['prefix']}")


def test_a_database_exchanged_below_a_running_platform_ends_it(serve):
    """Or it would go on in a file without a name, and what it accepts would be gone with it."""
    served = serve()
    file = served.data / "eventproc.db"
    file.rename(file.with_suffix(".moved"))
    assert served.wait() == 2
    assert f"{file} was replaced or removed while the platform ran" in served.tail()
    assert served.tree() == []


def test_a_key_file_of_another_database_is_told_at_the_start_and_in_the_errors(serve):
    served = serve()
    assert served.stop() == 0
    (served.data / "admin.key").write_text(f"ep_{'a' * 8}_{'b' * 43}")
    served.start()
    wanted = f"{served.data}/admin.key holds a key that this database does not know; `eventproc keys recover` writes"
    assert wanted in served.tail(100_000)
    done = served.cli("hooks", "list")
    assert done.returncode == 3
    assert f"it is that of {served.data}/admin.key; `eventproc keys recover`" in done.stderr
    assert served.cli("keys", "recover").returncode == 0
    assert served.cli("hooks", "list").returncode == 0


def test_keys_of_no_platform_are_not_recovered_and_nothing_is_made(tmp_path):
    environ = os.environ | {"EVENTPROC_DATA": str(tmp_path / "none")}
    command = [sys.executable, "-m", "eventproc", "keys", "recover"]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == NotFound.exit_code
    assert f"there is no platform's database in {tmp_path / 'none'}" in done.stderr
    assert not (tmp_path / "none").exists()


# ------------------------------------------------------------------------------------------------- stopping


def test_a_graceful_stop_lets_a_running_handler_finish(serve):
    def slow(db, **kwargs):
        import time

        print("started", flush=True)
        time.sleep(2)
        return "finished"

    served = serve()
    run_id = start_run(served, slow)
    assert served.stop() == 0
    assert not (served.data / "endpoints.json").exists()
    served.start()
    run = served.connect().run(run_id)
    assert (run["state"], run["result"], run["attempt"], run["interruptions"]) == ("succeeded", "finished", 1, 0)


def test_a_handler_that_outlasts_the_grace_is_given_back_and_runs_again(serve):
    def waits_for_a_sign(db, **kwargs):
        import time

        print("started", flush=True)
        if not db.events(hook="sign"):
            time.sleep(500)
        return "saw the sign"

    served = serve(EVENTPROC_WORKER__GRACE="1s")
    run_id = start_run(served, waits_for_a_sign)
    served.connect().put_hook("sign", summary="x", sample={})
    served.connect().emit("sign", {})
    assert served.stop() == 0
    served.start()
    assert served.connect().wait(run_id)["result"] == "saw the sign"


def test_a_closed_terminal_is_a_graceful_stop(serve):
    served = serve()
    served.process.send_signal(signal.SIGHUP)
    assert served.wait() == 0
    assert not (served.data / "endpoints.json").exists()


def test_a_second_signal_ends_at_once(serve):
    served = serve(EVENTPROC_WORKER__GRACE="600s")
    start_run(served, endless)
    tree = served.tree()
    served.process.send_signal(signal.SIGINT)
    wait_until(lambda: "a second signal ends at once" in served.tail(), what="the stop to begin")
    served.process.send_signal(signal.SIGINT)
    assert served.wait() != 0
    wait_until(lambda: not any(alive(pid) for pid in tree), what="all processes to be gone, the handler's too")


def test_killing_the_supervisor_takes_everything_down(serve):
    served = serve()
    start_run(served, endless)
    assert len(served.tree()) > len(ROLES)
    served.kill_all()


@pytest.mark.parametrize("role", ROLES)
def test_a_role_that_dies_is_started_again_and_the_log_says_so(serve, role):
    served = serve()
    conn = served.connect()
    conn.put_hook("greeting", summary="x", sample={"who": "you"})
    conn.register(greet, hook="greeting", notify_on_success="a@example.com")
    old = served.kill_role(role)
    wait_until(lambda: served.pid_of(role) not in (None, old), what="a new process")
    assert f"name={role}" in served.tail()
    assert "SIGKILL" in served.tail()
    assert conn.wait(conn.emit("greeting", {"who": "Ada"})["runs"][0])["state"] == "succeeded"
    wait_until(lambda: list((served.data / "mail").glob("*.eml")), what="the mail")
    assert served.process.poll() is None


# ------------------------------------------------------------------------------------------------- refusals


def test_a_second_serve_on_the_same_data_is_refused_and_names_the_first(serve):
    first = serve()
    second = serve(data=first.data, wait=False)
    assert second.wait() == 5
    assert f"pid {first.process.pid}" in second.tail()
    assert first.connect().health()["status"] == "ok"
    assert first.endpoints


def test_a_port_that_is_taken_is_named_with_what_to_set(serve):
    first = serve()
    port = first.endpoints["http"].rpartition(":")[2]
    second = serve(wait=False, EVENTPROC_HTTP=f"127.0.0.1:{port}")
    assert second.wait() == 2
    assert f"port {port}" in second.tail()
    assert "EVENTPROC_HTTP=127.0.0.1:0" in second.tail()


def test_bad_settings_end_the_start_with_one_line(serve):
    served = serve(wait=False, EVENTPROC_HTTP="everywhere")
    assert served.wait() == 2
    assert "EVENTPROC_HTTP" in served.tail()
    assert "Traceback" not in served.tail()


def test_a_role_that_can_not_start_ends_the_start_with_its_reason(serve):
    served = serve(wait=False, EVENTPROC_TEMPLATES="no/such/directory")
    assert served.wait() == 2
    assert "no/such/directory does not exist" in served.tail()
    assert served.tree() == []


def test_a_database_that_is_not_there_is_named_without_its_password(serve):
    served = serve(wait=False, EVENTPROC_DATABASE_URL="postgresql://me:hunter2@127.0.0.1:1/nothing")
    assert served.wait() != 0
    assert "hunter2" not in served.tail()
    assert "Traceback" not in served.tail()


def test_a_broken_hook_file_among_good_ones_is_reported_and_the_others_work(serve, tmp_path):
    hooks = tmp_path / "project" / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "a_good.yaml").write_text("hooks:\n  - name: one.good\n    summary: x\n    sample: {}\n")
    (hooks / "broken.yaml").write_text("hooks:\n  - name: [not a name\n")
    (hooks / "mixed.yaml").write_text(
        "hooks:\n  - name: two.good\n    summary: x\n  - name: bad\n    schema: {type: nonsense}\n"
    )
    served = serve(EVENTPROC_PROJECT=str(tmp_path / "project"))
    names = served.connect().hooks()
    assert {"one.good", "two.good", "schedule.tick"} <= set(names)
    assert "bad" not in names
    assert "broken.yaml" in served.tail()
    assert "mixed.yaml" in served.tail()


# ------------------------------------------------------------------------------------------------- split roles


def test_roles_can_be_split_over_processes_on_one_data_directory(serve, tmp_path):
    data = tmp_path / "shared"
    api = serve("--role", "api", data=data)
    for role in ("worker", "engine", "notifier"):
        serve("--role", role, data=data)
    conn = api.connect()
    conn.put_hook("greeting", summary="x", sample={"who": "you"})
    conn.register(greet, hook="greeting", notify_on_success="a@example.com")
    assert conn.wait(conn.emit("greeting", {"who": "Ada"})["runs"][0])["state"] == "succeeded"
    wait_until(lambda: list((data / "mail").glob("*.eml")), what="the mail")


def test_a_second_worker_may_help_a_running_platform(serve):
    served = serve()
    helper = serve("--role", "worker", data=served.data)
    conn = served.connect()
    conn.put_hook("greeting", summary="x", sample={"who": "you"})
    conn.register(greet, hook="greeting")
    os.kill(served.pid_of("worker"), signal.SIGSTOP)
    try:
        run = conn.wait(conn.emit("greeting", {"who": "Ada"})["runs"][0])
    finally:
        os.kill(served.pid_of("worker"), signal.SIGCONT)
    assert run["state"] == "succeeded"
    assert helper.stop() == 0
    assert served.process.poll() is None


def test_the_terminals_ctrl_c_reaches_the_supervisor_alone(serve):
    """The roles are in sessions of their own: what the terminal sends to the group of `serve` does not hit them."""
    served = serve()
    group = os.getpgid(served.process.pid)
    assert all(os.getpgid(served.pid_of(role)) != group for role in ROLES)


def test_serve_needs_no_terminal_and_no_home(serve, tmp_path):
    served = serve(HOME=str(tmp_path / "nowhere"), XDG_DATA_HOME="")
    assert served.connect().health()["status"] == "ok"
