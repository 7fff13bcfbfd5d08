"""System call numbers, by machine, of what handlers may not do."""

from __future__ import annotations

from typing import Dict, NamedTuple, Tuple

LAST_KNOWN = 450  # newer calls answer ENOSYS, and C libraries fall back to older ones
X32_BIT = 0x40000000

_COMMON = {  # numbers since 424 are the same everywhere
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434,
    "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447,
    "process_mrelease": 448, "set_mempolicy_home_node": 450,
}  # fmt: skip

_X86_64 = {
    "shmget": 29, "shmat": 30, "shmctl": 31, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "semget": 64,
    "semop": 65, "semctl": 66, "shmdt": 67, "msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "ptrace": 101,
    "syslog": 103, "rt_sigqueueinfo": 129, "uselib": 134, "ustat": 136, "sysfs": 139, "vhangup": 153,
    "modify_ldt": 154, "pivot_root": 155, "_sysctl": 156, "adjtimex": 159, "chroot": 161, "acct": 163,
    "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
    "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "create_module": 174, "init_module": 175,
    "delete_module": 176, "get_kernel_syms": 177, "query_module": 178, "quotactl": 179, "nfsservctl": 180,
    "io_setup": 206, "io_destroy": 207, "io_getevents": 208, "io_submit": 209, "io_cancel": 210, "io_pgetevents": 333,
    "lookup_dcookie": 212, "remap_file_pages": 216, "semtimedop": 220, "clock_settime": 227, "mbind": 237,
    "set_mempolicy": 238, "mq_open": 240, "mq_unlink": 241, "mq_timedsend": 242, "mq_timedreceive": 243,
    "mq_notify": 244, "mq_getsetattr": 245, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250,
    "migrate_pages": 256, "unshare": 272, "vmsplice": 278, "move_pages": 279, "accept4": 288, "rt_tgsigqueueinfo": 297,
    "perf_event_open": 298, "fanotify_init": 300, "fanotify_mark": 301, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
    "kcmp": 312, "finit_module": 313, "memfd_create": 319, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
}  # fmt: skip

_AARCH64 = {
    "io_setup": 0, "io_destroy": 1, "io_submit": 2, "io_cancel": 3, "io_getevents": 4, "io_pgetevents": 292,
    "lookup_dcookie": 18, "umount2": 39, "mount": 40, "pivot_root": 41, "nfsservctl": 42, "chroot": 51, "vhangup": 58,
    "quotactl": 60, "vmsplice": 75, "acct": 89, "unshare": 97, "kexec_load": 104, "init_module": 105,
    "delete_module": 106, "clock_settime": 112, "syslog": 116, "ptrace": 117, "rt_sigqueueinfo": 138, "reboot": 142,
    "sethostname": 161, "setdomainname": 162, "settimeofday": 170, "adjtimex": 171, "mq_open": 180, "mq_unlink": 181,
    "mq_timedsend": 182, "mq_timedreceive": 183, "mq_notify": 184, "mq_getsetattr": 185, "msgget": 186, "msgctl": 187,
    "msgrcv": 188, "msgsnd": 189, "semget": 190, "semctl": 191, "semtimedop": 192, "semop": 193, "shmget": 194,
    "shmctl": 195, "shmat": 196, "shmdt": 197, "bind": 200, "listen": 201, "accept": 202, "connect": 203,
    "add_key": 217, "request_key": 218, "keyctl": 219, "swapon": 224, "swapoff": 225, "remap_file_pages": 234,
    "mbind": 235, "set_mempolicy": 237, "migrate_pages": 238, "move_pages": 239, "rt_tgsigqueueinfo": 240,
    "perf_event_open": 241, "accept4": 242, "fanotify_init": 262, "fanotify_mark": 263, "name_to_handle_at": 264,
    "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271,
    "kcmp": 272, "finit_module": 273, "memfd_create": 279, "bpf": 280, "userfaultfd": 282, "kexec_file_load": 294,
}  # fmt: skip


class Table(NamedTuple):
    """What the filter must know of one machine."""

    audit_arch: int
    x32: bool
    denied: Tuple[int, ...]
    starting: Tuple[int, ...]  # fork, vfork, execve, execveat: processes and programs
    executing: Tuple[int, ...]  # of these, execve and execveat
    clone: int
    clone3: int
    socket: int
    socketpair: int
    sendto: int
    kill: Tuple[int, ...]  # kill, tgkill: the process is their first argument
    tkill: int
    of_process: Tuple[int, ...]  # change a process by the id in their first argument: prlimit, sched_set*
    of_kind: Tuple[Tuple[int, int], ...]  # setpriority, ioprio_set, with the first argument that means one process
    fcntl: int
    mknod: Tuple[Tuple[int, int], ...]  # (number, position of the mode)
    ioctl: int
    personality: int
    connect: int
    serving: Tuple[int, ...]  # bind, listen, accept, accept4
    sending: Tuple[Tuple[int, int], ...]  # calls that send, with the position of their flags
    setsockopt: int
    watching: Tuple[int, ...]  # inotify_add_watch: tells of files that can not be opened
    watchers: Tuple[int, ...]  # inotify_init: each user has 128
    pretended: Tuple[int, ...]  # change the mode of a file, by its path or an open file
    timing: Tuple[Tuple[int, int], ...]  # change its times: (number, position of the times, behind the path's)
    owning: Tuple[int, ...]  # change the owner of a file, or its extended attributes
    truncate: int  # by path
    opening: Tuple[Tuple[int, int], ...]  # open, openat: (number, position of the flags)
    openat2: int


TABLES: Dict[str, Table] = {
    "x86_64": Table(
        audit_arch=0xC000003E,
        x32=True,
        denied=tuple(sorted({**_COMMON, **_X86_64}.values())),
        starting=(57, 58, 59, 322),
        executing=(59, 322),
        clone=56,
        clone3=435,
        socket=41,
        socketpair=53,
        sendto=44,
        kill=(62, 234),
        tkill=200,
        of_process=(302, 142, 144, 203, 314),
        of_kind=((141, 0), (251, 1)),
        fcntl=72,
        mknod=((133, 1), (259, 2)),
        ioctl=16,
        personality=135,
        connect=42,
        serving=(49, 50, 43, 288),
        sending=((44, 3), (46, 2), (307, 3)),
        setsockopt=54,
        watching=(254,),
        watchers=(253, 294),
        pretended=(90, 91, 268),
        timing=((132, 1), (235, 1), (261, 2), (280, 2)),
        owning=(92, 93, 94, 260, 188, 189, 190, 197, 198, 199),
        truncate=76,
        opening=((2, 1), (257, 2)),
        openat2=437,
    ),
    "aarch64": Table(
        audit_arch=0xC00000B7,
        x32=False,
        denied=tuple(sorted({**_COMMON, **_AARCH64}.values())),
        starting=(221, 281),
        executing=(221, 281),
        clone=220,
        clone3=435,
        socket=198,
        socketpair=199,
        sendto=206,
        kill=(129, 131),
        tkill=130,
        of_process=(261, 118, 119, 122, 274),
        of_kind=((140, 0), (30, 1)),
        fcntl=25,
        mknod=((33, 2),),
        ioctl=29,
        personality=92,
        connect=203,
        serving=(200, 201, 202, 242),
        sending=((206, 3), (211, 2), (269, 3)),
        setsockopt=208,
        watching=(27,),
        watchers=(26,),
        pretended=(52, 53),
        timing=((88, 2),),
        owning=(54, 55, 5, 6, 7, 14, 15, 16),
        truncate=45,
        opening=((56, 2),),
        openat2=437,
    ),
}
