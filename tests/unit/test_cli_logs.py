"""Logs of the platform's processes: one line each, in one format, without secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from eventproc.roles.logs import mask_secrets, scrub

KEY = "ep_abcdefgh_" + "A" * 43
SPEAK = """
import logging, structlog
from eventproc import config
from eventproc.roles import logs
logs.configure(config.load(search=False, log_format="{form}", log_level="{level}"), "worker")
log = structlog.get_logger("x")
log.info("run ended", run_id=7, handler="greet", version=2)
log.info("two\\nlines \\x1b[31m")
log.debug("quiet")
logging.getLogger("library").warning("smtp://me:hunter2@host %s", "{key}")
try:
    raise ValueError("the reason")
except ValueError:
    log.exception("broke")
"""


def spoken(form: str, level: str = "info") -> list[str]:
    code = SPEAK.format(form=form, level=level, key=KEY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


@pytest.mark.parametrize("form", ["json", "auto", "console"])
def test_no_format_shows_a_secret(form):
    text = "\n".join(spoken(form))
    assert "hunter2" not in text
    assert KEY not in text
    assert "ep_abcdefgh_***" in text


def test_json_lines_carry_role_run_handler_and_version():
    lines = [json.loads(line) for line in spoken("json")]
    assert {"role": "worker", "run_id": 7, "handler": "greet", "version": 2, "level": "info"}.items() <= lines[
        0
    ].items()
    assert "ValueError: the reason" in lines[-1]["exception"]


def test_for_pipes_an_entry_stays_on_its_line_and_escapes_are_visible():
    lines = spoken("auto")
    assert sum("role=worker" in line for line in lines) >= 4
    assert any("two\\\\nlines \\\\x1b[31m" in line or "two\\nlines \\x1b[31m" in line for line in lines)


def test_the_level_is_kept():
    assert not any("quiet" in line for line in spoken("json"))
    assert any("quiet" in line for line in spoken("json", "debug"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://a:b@h/x", "amqp://a:***@h/x"),
        (f"key {KEY}.", "key ep_abcdefgh_***."),
        ("http://host/path", "http://host/path"),
        ("postgresql://a@h", "postgresql://a@h"),
    ],
)
def test_passwords_and_keys_inside_texts_are_masked(text, shown):
    assert scrub(text) == shown


def test_values_with_secret_names_are_masked():
    event = {"event": "x", "password": "p", "apikey": "k", "Authorization": "b", "handler": "h"}
    assert mask_secrets(None, "", event) == {
        "event": "x",
        "password": "***",
        "apikey": "***",
        "Authorization": "***",
        "handler": "h",
    }


@pytest.mark.parametrize("reader", ["gone", "full"])
def test_a_standard_output_that_nobody_reads_ends_nothing(reader):
    script = """
from eventproc import config
from eventproc.roles import logs
from eventproc.roles.platform import say
logs.configure(config.load(search=False), "serve")
say("x" * 100_000)
say("more")
import sys
print("went on", file=sys.stderr)
"""
    if reader == "full":
        out = os.open("/dev/full", os.O_WRONLY)
    else:
        gone, out = os.pipe()
        os.close(gone)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(out)
    assert done.returncode == 0, done.stderr
    assert "could not be written to the standard output" in done.stderr
    assert done.stderr.endswith("went on\n")
    assert "Exception ignored" not in done.stderr
