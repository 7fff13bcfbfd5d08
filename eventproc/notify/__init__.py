"""Notices on their way out: mail servers, `.eml` files, memory; and the templates that write the mails."""

from eventproc.notify.eml import EmlMailer
from eventproc.notify.memory import MemoryMailer, SentMail
from eventproc.notify.render import TemplateRenderer
from eventproc.notify.smtp import SmtpMailer
from eventproc.notify.urls import mailer_from_url

__all__ = ["EmlMailer", "MemoryMailer", "SentMail", "SmtpMailer", "TemplateRenderer", "mailer_from_url"]
