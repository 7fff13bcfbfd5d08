"""The private root: an empty tmpfs with the interpreter read-only, a few devices and a capped scratch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Dict, Iterable, List

from . import kernel

OWN = "/own"  # holds nothing but what is mounted below it for one child: Landlock looks at parents of mounts
SCRATCH = f"{OWN}/scratch"
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
CONFIGURATION = (
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime", "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf", "/etc/ca-certificates", "/etc/fonts", "/etc/mime.types", "/etc/pki/tls/certs",
)  # fmt: skip
RESOLVING = ("/etc/resolv.conf", "/etc/hosts", "/etc/services", "/etc/gai.conf", "/etc/host.conf")  # with a network
HOSTS = "/etc/hosts"
LOCAL_NAMES = "127.0.0.1 localhost\n"
NAMES = "/names"  # in a monitor: holds the hosts file of its present child
WRITTEN = {
    "/etc/passwd": "root:x:0:0:root:/:/bin/false\nhandler:x:1000:1000:handler:/own/scratch:/bin/false\n",
    "/etc/group": "root:x:0:\nhandler:x:1000:\n",
    HOSTS: LOCAL_NAMES,
    "/etc/nsswitch.conf": "hosts: files\npasswd: files\ngroup: files\n",
}
NO_TRICKS = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
READ_ONLY = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV


def interpreter_paths() -> List[str]:
    """Return where this interpreter and its packages live."""
    found = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    found |= {path for path in sys.path if os.path.isdir(path)}  # noqa: PTH112  strings all along
    found.add(str(Path(__file__).resolve().parents[1]))
    return outermost(found)


def outermost(paths: Iterable[str]) -> List[str]:
    """Leave out what is below another path."""
    kept: List[str] = []
    for path in sorted({os.path.abspath(path) for path in paths}):  # noqa: PTH100  strings all along
        if not any(path == above or path.startswith(above.rstrip("/") + "/") for above in kept):
            kept.append(path)
    return kept


def build(mountpoint: str, extra: Iterable[str], *, host_network: bool = False) -> None:
    """Make the root at `mountpoint` (an empty directory) and move into it. Needs an own mount namespace."""
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", mountpoint, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=4m,mode=755")
    written = dict(WRITTEN)
    resolving: Iterable[str] = ()
    if host_network:
        resolving = RESOLVING
        del written[HOSTS]
        written["/etc/nsswitch.conf"] = written["/etc/nsswitch.conf"].replace("hosts: files", "hosts: files dns")
    for path in outermost([*SYSTEM, *CONFIGURATION, *resolving, *interpreter_paths(), *extra]):
        _show(path, mountpoint)
    for path, text in written.items():
        target = Path(mountpoint + path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    _devices(mountpoint)
    for name in ("proc", SCRATCH[1:], NAMES[1:], "old"):
        Path(mountpoint, name).mkdir(parents=True)
    if not Path(mountpoint, "tmp").exists():  # it is there where the interpreter lives below /tmp: then TMPDIR must do
        Path(mountpoint, "tmp").symlink_to(SCRATCH[1:])
    kernel.mount("proc", f"{mountpoint}/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    os.chdir(mountpoint)
    kernel.pivot_root(".", "old")
    os.chdir("/")
    kernel.detach("/old")
    Path("/old").rmdir()
    kernel.mount(
        "none", "/", "", kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    )


def _show(path: str, mountpoint: str) -> None:
    """Bind a path of the host into the new root, read-only; symbolic links are made anew."""
    source = Path(path)
    target = Path(mountpoint + path)
    if not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink() and path in SYSTEM:
        target.symlink_to(os.readlink(path))  # noqa: PTH115  strings all along
        return
    if source.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    kernel.mount(str(source.resolve()), str(target), "", kernel.MS_BIND | kernel.MS_REC)
    kernel.restrict_mount(str(target), READ_ONLY)


def _devices(mountpoint: str) -> None:
    Path(mountpoint, "dev").mkdir()
    for path in DEVICES:
        Path(mountpoint + path).touch()
        kernel.mount(path, mountpoint + path, "", kernel.MS_BIND)
        kernel.restrict_mount(mountpoint + path, kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NOEXEC)
    for name, target in (("shm", SCRATCH), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0")):
        Path(mountpoint, "dev", name).symlink_to(target)


def own_mounts() -> None:
    """Give a monitor mounts of its own, with its own view of processes. Needs the zygote's root and a pid namespace."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("proc", "/proc", "proc", NO_TRICKS)
    kernel.mount("tmpfs", SCRATCH, "tmpfs", NO_TRICKS)


def own_scratch(uid: int, size: int, inodes: int) -> None:
    """Give one child an empty scratch, in the place of the last one's."""
    kernel.detach(SCRATCH)
    kernel.mount("tmpfs", SCRATCH, "tmpfs", NO_TRICKS, f"size={size},nr_inodes={inodes},mode=700,uid={uid},gid={uid}")


class Names:
    """In a monitor: the hosts file of its present child, so that programs written in C find the hosts it may reach."""

    def __init__(self) -> None:
        self._mounted = False
        self._shown: Dict[str, str] = {}

    def show(self, hosts: Dict[str, str]) -> None:
        """Have /etc/hosts say these names' addresses, and nothing but `localhost` besides."""
        if hosts == self._shown:
            return
        if not self._mounted:
            kernel.mount("tmpfs", NAMES, "tmpfs", NO_TRICKS, "size=256k,nr_inodes=16,mode=755")
            Path(NAMES, "hosts").touch(0o644)
            kernel.mount(f"{NAMES}/hosts", HOSTS, "", kernel.MS_BIND)
            self._mounted = True
        lines = [f"{address} {name}\n" for name, address in hosts.items()]
        Path(NAMES, "hosts").write_text("".join(lines if "localhost" in hosts else [LOCAL_NAMES, *lines]))
        self._shown = hosts
