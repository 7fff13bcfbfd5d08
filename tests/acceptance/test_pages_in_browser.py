"""The platform's pages as people see them: in a browser, on a screen and on a phone, with what handlers may write."""

from __future__ import annotations

import email
import email.policy
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import Browser, browser
from serving import Served
from waiting import wait_until

from eventproc import Connection

pytestmark = [pytest.mark.external_service, pytest.mark.timeout(900)]

HANDLER = "<script>document.title='owned'</script>"
ARABIC = "ملف التقرير.txt"
DATA = bytes(range(256)) * 300
HANDLERS = f"""
    from eventproc import ep, register

    @register(name="{HANDLER}", hook="page.shown", notify_on_success="a@example.com")
    def shown(db, **payload):
        print("<script>document.title='owned'</script><img src=x onerror=document.title='owned'>")
        print("\\N{{RIGHT-TO-LEFT OVERRIDE}}turned", "\\x1b[31mred", "x" * 2000)
        with open("page.html", "w") as file:
            file.write("<script>document.title='owned'</script>")
        ep.upload_file("page.html", "page.html")
        with open("data", "wb") as file:
            file.write(bytes(range(256)) * 300)
        ep.upload_file("data", "{ARABIC}")
        return "</pre><script>document.title='owned'</script>"

    @register(name="long", hook="page.failed", notify_on_failure="a@example.com")
    def long(db, lines, **payload):
        for number in range(lines):
            print("line", number, "-" * 50)
        raise ValueError("first <b>line</b>\\nsecond line")
"""


@dataclass
class World:
    """A platform, a browser that is logged in, and the pages that mails link to."""

    served: Served
    conn: Connection
    browser: Browser

    def mail_of(self, run_id: int, home: Path) -> Path:
        """Return the HTML of the run's mail as a file."""
        files = self.served.data / "mail"
        mails = [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in files.glob("*")]
        [mail] = [mail for mail in mails if mail["X-Eventproc-Run"] == str(run_id)]
        part = mail.get_body(("html",))
        assert part is not None
        (home / "mail.html").write_text(part.get_content(), encoding="utf-8")
        return home / "mail.html"

    def run(self, hook: str, payload: dict[str, object]) -> int:
        """Emit an event; return its run's id once it has ended and its mail is written."""
        run_id: int
        [run_id] = self.conn.emit(hook, payload)["runs"]
        wait_until(
            lambda: any(notice["state"] == "sent" and notice["run"] == run_id for notice in self.conn.notices()),
            timeout_s=120,
            what=f"the mail of run {run_id}",
        )
        return run_id

    def sideways(self) -> bool:
        """Tell whether a phone has to be scrolled sideways to read the page."""
        self.browser.width(360)
        return bool(self.browser.evaluate("return document.documentElement.scrollWidth > 360"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("pages")
    with browser(home / "browser") as window:
        served = Served(home / "data")
        try:
            served.start()
            conn = served.connect()
            for hook in ("page.shown", "page.failed"):
                conn.put_hook({"name": hook, "summary": "For the pages."})
            (home / "handlers.py").write_text(textwrap.dedent(HANDLERS), encoding="utf-8")
            done = served.cli("handlers", "push", str(home / "handlers.py"))
            assert done.returncode == 0, done.stdout + done.stderr
            login = served.endpoints["http"].replace("://", f"://anybody:{served.key}@")
            window.open(f"{login}/runs/0")  # the browser is asked for a login, and remembers it
            yield World(served, conn, window)
        finally:
            served.close()


@pytest.fixture
def seen(world: World) -> Browser:
    """Return the world's browser, at a desk and with nothing on its console."""
    world.browser.width(1280)
    world.browser.complaints()
    return world.browser


def test_the_page_of_a_run_shows_what_was_written_and_runs_none_of_it(world, seen, tmp_path):
    run_id = world.run("page.shown", {"said": "<script>document.title='owned'</script>"})
    seen.open(world.mail_of(run_id, tmp_path).as_uri())
    assert seen.title == HANDLER, "the mail's title; no script ran in it"
    assert not world.sideways()
    seen.click(f"a[href$='/runs/{run_id}']")
    wait_until(lambda: seen.url.endswith(f"/runs/{run_id}") and seen.title, timeout_s=120, what="the run's page")
    title = f"Run {run_id} succeeded: {HANDLER}"
    assert seen.title == title
    shown = seen.text
    assert f"{HANDLER}, version 0" in shown
    assert "\n</pre><script>document.title='owned'</script>\n" in shown, "the result, as the text that it is"
    assert "<img src=x onerror=document.title='owned'>" in shown
    assert "\\u202eturned \\x1b[31mred xxx" in shown
    assert '"said"' not in shown
    seen.click("summary")
    assert '"said": "<script>document.title=\'owned\'</script>"' in seen.text
    assert seen.evaluate("return document.scripts.length + document.images.length") == 0
    assert not world.sideways()

    seen.click("li:first-child a")
    assert seen.downloaded("page.html") == b"<script>document.title='owned'</script>"
    seen.click("li:nth-child(2) a")
    assert seen.downloaded(ARABIC) == DATA
    assert seen.title == title
    assert seen.complaints() == []


def test_the_page_of_a_failed_run_says_why_and_how_its_long_output_ended(world, seen):
    run_id = world.run("page.failed", {"lines": 10_000})
    seen.open(f"{world.served.endpoints['http']}/runs/{run_id}")
    assert seen.title == f"Run {run_id} failed: long"
    shown = seen.text
    assert "\nValueError: first <b>line</b>\nsecond line\n" in shown
    assert 'raise ValueError("first <b>line</b>' in shown, "the traceback"
    assert f"To run it again: eventproc runs requeue {run_id}" in shown
    assert "\nline 0 ---" in shown
    assert "\nline 9999 ---" in shown
    assert "\nline 5000 ---" not in shown
    assert f"characters are left out here; eventproc runs logs {run_id} shows all" in shown
    assert not world.sideways()
    assert seen.complaints() == []


@pytest.mark.parametrize(("path", "shows"), [("/", "eventproc runs list"), ("/docs", "POST /api/v1/events")])
def test_the_other_pages_can_be_read_on_a_phone(world, seen, path, shows):
    seen.open(world.served.endpoints["http"] + path)
    assert shows in seen.text
    assert seen.evaluate("return getComputedStyle(document.querySelector('code')).borderRadius") != "0px", (
        "has its style"
    )
    assert not world.sideways()
    assert seen.complaints() == []


def test_a_link_to_what_is_gone_leads_to_a_page_that_says_so(world, seen):
    for path, why in [("/runs/99999", "there is no run 99999"), (f"/{'0' * 32}", "there is no such file")]:
        seen.open(world.served.endpoints["http"] + path)
        assert seen.title == "Not found"
        assert why in seen.text
        assert not world.sideways()
