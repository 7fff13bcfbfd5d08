"""`ep.quiet()` on a running platform: what a handler declines is not mailed, its failure is."""

from __future__ import annotations

from smtp_server import SmtpServer
from waiting import wait_until


def test_a_quiet_success_is_not_mailed_and_a_quiet_failure_is(serve):
    smtp = SmtpServer()
    try:
        conn = serve(EVENTPROC_SMTP_URL=f"smtp://127.0.0.1:{smtp.port}?timeout=1").connect()
        conn.put_hook("order.placed", summary="x", sample={})

        def look(db, total, **kwargs):
            if total < 10:
                ep.quiet()  # noqa: F821 - there without import
            if total < 0:
                raise ValueError("below nothing")
            return f"total {total}"

        conn.register(
            look, hook="order.placed", notify_on_success="good@example.com", notify_on_failure="bad@example.com"
        )

        def states(*totals: int) -> list[str]:
            return [conn.wait(conn.emit("order.placed", {"total": total})["runs"][0])["state"] for total in totals]

        def mailed() -> list[str]:
            return [recipient for _, recipients, _ in smtp.box.mails for recipient in recipients]

        assert states(1, -1, 20) == ["succeeded", "failed", "succeeded"]
        # The quiet run ended before the others: a mail of it would have been due before theirs.
        wait_until(lambda: len(mailed()) >= 2, what="the mails of the failure and of the loud success")
        assert sorted(mailed()) == ["bad@example.com", "good@example.com"]
        [good] = [mail for _, recipients, mail in smtp.box.mails if "good@example.com" in recipients]
        assert b"total 20" in good
    finally:
        smtp.close()
