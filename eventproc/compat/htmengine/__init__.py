"""
htmengine's names over a running platform: put `eventproc.compat.` before the imports of an application.

`createDatasourceAdapter` and `repository` speak to the platform over HTTP (EVENTPROC_ENDPOINTS and EVENTPROC_API_KEY,
or the platform of this machine), with the rights of the key's owner. No MySQL and no RabbitMQ is in between.
"""

from __future__ import annotations
