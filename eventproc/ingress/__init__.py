"""
COMTRADE ingress: archives of fault records become series, and then the event `ctingress.on_complete`.

* `archive`   opens zip and tar archives and folders, and keeps out what is hostile or does not belong there
* `config`    reads a .cfg: channels, sampling rates, stamps to the nanosecond
* `data`      reads a .dat: ASCII, BINARY, BINARY32, FLOAT32
* `record`    puts both together (also from one .cff) and works out each sample's time
* `importer`  imports every record of an archive by itself and reports the whole
* `samples`   makes a fault record for demonstrations and tests
"""

from eventproc.ingress.archive import ArchiveLimits
from eventproc.ingress.importer import HOOK, Imported, Progress, import_archive
from eventproc.ingress.record import Record, read_cff, read_record

__all__ = [
    "HOOK",
    "ArchiveLimits",
    "Imported",
    "Progress",
    "Record",
    "import_archive",
    "read_cff",
    "read_record",
]
