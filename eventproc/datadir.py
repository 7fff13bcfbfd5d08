"""The data directory: who may use it, and how files come into it."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from pathlib import Path

from eventproc.config import Settings
from eventproc.errors import ConfigError


def make_private(settings: Settings) -> None:
    """Make the data directory, readable by its owner alone. Raises ConfigError where it or what it holds is closed."""
    try:
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        closed = what_is_closed(settings)
        if closed is None:
            make_directory(settings.run_dir)
    except OSError as error:
        raise ConfigError(
            f"the data directory {settings.data} can not be made: {error.strerror}; set EVENTPROC_DATA to another"
        ) from error
    if closed is not None:
        raise ConfigError(closed)


def has_database(settings: Settings) -> bool:
    """Tell whether there is a database to look into; looking into a file that is not there would make it."""
    return settings.database_url is not None or (settings.data / "eventproc.db").exists()


def what_is_closed(settings: Settings) -> str | None:
    """Say what in the data directory this process can not use, and what to do about it; None where all is well."""
    directories = [settings.data, *(settings.data / name for name in ("run", "files", "mail", "tmp", "environments"))]
    database = settings.data / "eventproc.db"
    files = [database, *(database.with_name(database.name + end) for end in ("-wal", "-shm"))]
    files += sorted(settings.run_dir.glob("*.lock"))
    wanted = [(path, os.R_OK | os.W_OK | os.X_OK) for path in directories] + [
        (file, os.R_OK | os.W_OK) for file in files
    ]
    for path, mode in [*wanted, (settings.secret_key_file, os.R_OK)]:
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        except PermissionError:  # the data directory has been told of, if it is that
            return _closed(path.parent, path.parent.stat(), settings.data)
        if not os.access(path, mode):
            return _closed(path, found, settings.data)
    return None


def _closed(path: Path, found: os.stat_result, data: Path) -> str:
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{path} lies on a file system that is mounted read-only: remount it, or set EVENTPROC_DATA to another"
    us, owner = _user_name(os.geteuid()), _user_name(found.st_uid)
    if us == owner:
        mode = stat.S_IMODE(found.st_mode)
        return f"{path} is closed to its own user {us} (mode {mode:o}): `chmod u+rwX {path}`"
    return (
        f"{path} belongs to {owner}, and {us} can not use it: run this as {owner}; or, if it shall be {us} from now, "
        f"stop eventproc and give it all with `chown -R {us} {data}`; or set EVENTPROC_DATA to another directory"
    )


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def make_directory(path: Path) -> None:
    """Make a directory of the data directory, for its owner alone; one that is there stays as it is."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _hand_over(fd, path.parent)
    finally:
        os.close(fd)


def write_atomically(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace a file so that readers see the old or the new whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):  # of a predecessor with our pid that was killed
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        _hand_over(fd, path.parent)
        os.fsync(fd)
    temporary.replace(path)


def _hand_over(fd: int, directory: Path) -> None:
    """Give what root made to the owner of its directory: `sudo eventproc keys recover` must lock no service out."""
    if os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(fd, owner.st_uid, owner.st_gid)


__all__ = ["has_database", "make_directory", "make_private", "what_is_closed", "write_atomically"]
