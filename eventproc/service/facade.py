"""All use cases, built once per process around one context."""

from __future__ import annotations

from eventproc.service.aggregates import Aggregates, Anomalies
from eventproc.service.annotations import Annotations
from eventproc.service.auth import Authenticator
from eventproc.service.context import ServiceContext
from eventproc.service.detectors import Detectors
from eventproc.service.events import Events
from eventproc.service.files import Files
from eventproc.service.handlers import Handlers
from eventproc.service.hooks import Hooks
from eventproc.service.ingest import Ingest
from eventproc.service.metrics import Metrics
from eventproc.service.monitoring import Monitoring
from eventproc.service.notices import Notices
from eventproc.service.outbox import Outbox
from eventproc.service.pipelines import Pipelines
from eventproc.service.runs import Runs
from eventproc.service.schedules import Schedules
from eventproc.service.secrets import Secrets
from eventproc.service.series import SeriesReader
from eventproc.service.streams import Streams
from eventproc.service.trials import Trials
from eventproc.service.triggers import Triggers
from eventproc.service.users import Users


class UseCases:
    """What front doors call: each group's methods take the acting user first."""

    def __init__(self, context: ServiceContext) -> None:
        self.context = context
        self.auth = Authenticator(context.store, context.group, context.clock, cache_s=context.settings.auth_cache_s)
        self.users = Users(context, self.auth)
        self.secrets = Secrets(context)
        self.hooks = Hooks(context)
        self.handlers = Handlers(context)
        self.detectors = Detectors(context, self.handlers)
        self.events = Events(context)
        self.trials = Trials(context)
        self.runs = Runs(context)
        self.schedules = Schedules(context)
        self.notices = Notices(context)
        self.outbox = Outbox(context)
        self.files = Files(context)
        self.series = SeriesReader(context)
        self.ingest = Ingest(context)
        self.monitoring = Monitoring(context)
        self.annotations = Annotations(context)
        self.aggregates = Aggregates(context)
        self.anomalies = Anomalies(context)
        self.pipelines = Pipelines(context)
        self.triggers = Triggers(context)
        self.streams = Streams(context)
        self.metrics = Metrics(context)
