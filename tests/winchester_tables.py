"""The tables of a winchester database, as winchester 0.56 makes them, and what tests put into them."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

# What `Base.metadata` of its models compiles to; tests/acceptance/test_winchesters_own_tests.py holds them together.
TABLES = """
CREATE TABLE event_type (id INTEGER NOT NULL, "desc" VARCHAR(255), PRIMARY KEY (id), UNIQUE ("desc"));
CREATE TABLE stream (id INTEGER NOT NULL, first_event DATETIME NOT NULL, last_event DATETIME NOT NULL,
    expire_timestamp DATETIME, fire_timestamp DATETIME, name VARCHAR(255) NOT NULL, state INTEGER NOT NULL,
    state_serial_no INTEGER NOT NULL, PRIMARY KEY (id));
CREATE TABLE dist_trait (stream_id INTEGER NOT NULL, name VARCHAR(100) NOT NULL, type INTEGER, dt_string VARCHAR(255),
    dt_float FLOAT, dt_int INTEGER, dt_datetime DATETIME, dt_timerange_begin DATETIME, dt_timerange_end DATETIME,
    PRIMARY KEY (stream_id, name), FOREIGN KEY(stream_id) REFERENCES stream (id));
CREATE TABLE event (id INTEGER NOT NULL, message_id VARCHAR(50), generated DATETIME, event_type_id INTEGER,
    PRIMARY KEY (id), UNIQUE (message_id), FOREIGN KEY(event_type_id) REFERENCES event_type (id));
CREATE TABLE streamevent (stream_id INTEGER NOT NULL, event_id INTEGER NOT NULL, PRIMARY KEY (stream_id, event_id),
    FOREIGN KEY(stream_id) REFERENCES stream (id), FOREIGN KEY(event_id) REFERENCES event (id));
CREATE TABLE trait (event_id INTEGER NOT NULL, name VARCHAR(100) NOT NULL, type INTEGER, t_string VARCHAR(255),
    t_float FLOAT, t_int INTEGER, t_datetime DATETIME, PRIMARY KEY (event_id, name),
    FOREIGN KEY(event_id) REFERENCES event (id));
"""
KINDS = {str: (1, "string"), int: (2, "int"), float: (3, "float"), dt.datetime: (4, "datetime")}


def statements(script: str) -> list[str]:
    """Return the statements of a script, each in one line with single blanks."""
    found = [" ".join(statement.split()) for statement in script.split(";")]
    return [re.sub(r"\( | \)", lambda match: match[0].strip(), statement) for statement in found if statement]


class Source:
    """A winchester database at a URL; PostgreSQL has another name for DATETIME."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        self._events = 0
        self._streams = 0
        self._types: dict[str, int] = {}
        datetime = "TIMESTAMP" if self.engine.dialect.name == "postgresql" else "DATETIME"
        with self.engine.begin() as conn:
            for table in statements(TABLES):
                conn.execute(sa.text(table.replace("DATETIME", datetime)))

    def close(self) -> None:
        self.engine.dispose()

    def event(self, message_id: str, event_type: str, at: dt.datetime, **traits: Any) -> int:
        self._events += 1
        if event_type not in self._types:
            self._types[event_type] = len(self._types) + 1
            self._insert("event_type", id=self._types[event_type], desc=event_type)
        kind = self._types[event_type]
        self._insert("event", id=self._events, message_id=message_id, generated=at, event_type_id=kind)
        for name, value in traits.items():
            code, column = KINDS[type(value)]
            self._insert("trait", event_id=self._events, name=name, type=code, **{f"t_{column}": value})
        return self._events

    def stream(
        self,
        name: str,
        state: int,
        events: Mapping[int, dt.datetime],
        *,
        fire: dt.datetime | None = None,
        expire: dt.datetime | None = None,
        **traits: Any,
    ) -> int:
        """Add a stream; `events` are their numbers and times. A pair of datetimes is a range of time."""
        self._streams += 1
        times = events.values() or [dt.datetime(2015, 2, 27)]  # noqa: DTZ001 - winchester's times are naive
        times_of = {"first_event": min(times), "last_event": max(times)}
        due = {"fire_timestamp": fire, "expire_timestamp": expire}
        self._insert("stream", id=self._streams, name=name, state=state, state_serial_no=3, **times_of, **due)
        for trait, value in traits.items():
            if isinstance(value, tuple):
                values = {"type": 5, "dt_timerange_begin": value[0], "dt_timerange_end": value[1]}
            else:
                code, column = KINDS[type(value)]
                values = {"type": code, f"dt_{column}": value}
            self._insert("dist_trait", stream_id=self._streams, name=trait, **values)
        for event in events:
            self.link(self._streams, event)
        return self._streams

    def link(self, stream: int, event: int) -> None:
        self._insert("streamevent", stream_id=stream, event_id=event)

    def _insert(self, table: str, **values: Any) -> None:
        columns = [
            sa.column(name, sa.DateTime() if isinstance(value, dt.datetime) else None) for name, value in values.items()
        ]
        with self.engine.begin() as conn:
            conn.execute(sa.insert(sa.table(table, *columns)).values(values))
