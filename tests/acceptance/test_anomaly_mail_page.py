"""docs/anomaly_mail.rst, pasted as it stands into one shell beside a running platform."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "anomaly_mail.rst"
BLOCK = re.compile(r"^\.\. code-block:: shell\n\n((?:(?: {4}.*)?\n)+)", re.MULTILINE)


def test_the_page_ends_with_the_mail_it_promises(serve, tmp_path):
    page = PAGE.read_text(encoding="utf-8")
    [template] = re.findall(r"^\.\. code-block:: jinja\n\n((?:(?: {4}.*)?\n)+)", page, re.MULTILINE)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "success.subject.txt").write_text(textwrap.dedent(template).strip())
    served = serve(EVENTPROC_TEMPLATES=str(tmp_path / "templates"))
    script = "".join(textwrap.dedent(body).strip() + "\n" for body in BLOCK.findall(page))
    waits = "until eventproc mail list | grep -q sent; do sleep 0.2; done\n"  # instead of a sleep that may be too short
    assert script.count("sleep 5\n") == 1
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e"],
        input=script.replace("sleep 5\n", waits),
        env=served.environ | {"PATH": path, "COLUMNS": "200"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "registered  anomaly-mail on anomaly.found" in done.stdout
    [mail] = (served.data / "mail").glob("*.eml")
    assert "\nSubject: Unusual behavior seen on: demo.requests\n" in f"\n{mail.read_text()}"
    assert "oncall@example.com" in done.stdout
    assert re.search(r"^demo\.requests +demo\.requests +0\.99999", done.stdout, re.MULTILINE)


def test_many_metrics_are_monitored_by_patterns(serve):
    served = serve()
    conn = served.connect()
    conn.send_samples([("web.a", 1, 100), ("web.b", 1, 100), ("disk.a", 1, 100)])
    conn.monitor("web.b", min=0, max=1)
    assert [one["name"] for one in served.json("models", "monitor", "web.*", "new")] == ["web.a", "new"]
    assert served.json("models", "monitor", "web.*") == []
    assert {one["name"] for one in conn.models()} == {"web.a", "web.b", "new"}
    done = served.cli("models", "monitor", "web.a", "disk.*")
    assert done.returncode == 5
    assert "'web.a' is monitored already" in done.stdout
    assert conn.model("disk.a")["status"] == "PENDING_DATA"
    done = served.cli("models", "monitor", "mail.*")
    assert (done.returncode, done.stderr.count("no metric has a name like 'mail.*'")) == (4, 1)
    assert "--spec takes a name literally" in done.stderr


def test_metrics_whose_names_look_like_patterns_are_monitored_by_their_names(serve):
    served = serve()
    conn = served.connect()
    conn.send_samples([("jmx.gc*.ms", 1, 100), ("jmx.gc[G1]*", 1, 100), ("jmx.gc1.ms", 1, 100), ("up?", 1, 100)])
    for name in ("jmx.gc*.ms", "up?", "jmx.gc[G1].ms", "not.yet[0]"):
        assert served.json("models", "monitor", name)["name"] == name
    assert [one["name"] for one in served.json("models", "monitor", "jmx.gc[G1]*", "a[1]")] == ["jmx.gc[G1]*", "a[1]"]
    assert [one["name"] for one in served.json("models", "monitor", "jmx.gc[0-9].*")] == ["jmx.gc1.ms"]
