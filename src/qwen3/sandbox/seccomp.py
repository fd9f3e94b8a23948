"""A seccomp filter for candidates: system calls that no plain computation needs are refused.

Assembled here in classic BPF, since the bindings of libseccomp need a shared library that not
every image has, and no wheel brings it. The filter denies by name (a list of what is refused, the
rest is allowed), so programs keep running on new kernels. See seccomp(2), kernel documentation
userspace-api/seccomp_filter. Standard library only, no package imports: the warden loads this file.
"""

import ctypes
import errno
import os
import struct

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, JUMP_EQUAL, JUMP_ABOVE, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
# Offsets in struct seccomp_data: number, architecture, low half of the first argument.
NUMBER, ARCHITECTURE, FIRST = 0, 4, 16
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32 = 0x40000000  # numbers of the x32 ABI start here: the same calls by other numbers
NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag of clone(2)
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
SOCKET, CLONE, CLONE3 = (
    {"x86_64": 41, "aarch64": 198},
    {"x86_64": 56, "aarch64": 220},
    {"x86_64": 435, "aarch64": 435},
)
# What is refused: name -> number on (x86_64, aarch64), None where the architecture lacks it.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # System V and POSIX objects, whose memory no limit counts and which outlive their process
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # keys of the trainer's session
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # large parts of the kernel that only special programs use
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "remap_file_pages": (216, 234),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "get_mempolicy": (239, 236),
    "personality": (135, 92),
    "modify_ldt": (154, None),  # x86 only
    "iopl": (172, None),
    "ioperm": (173, None),
    # namespaces, mounts, the machine as a whole
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "vhangup": (153, 58),
}


def _instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    """One BPF instruction; a jump skips `yes` instructions if it holds, else `no`."""
    return struct.pack("HBBI", code, yes, no, value)


def program(machine: str, families: tuple[int, ...]) -> bytes:
    """The filter for a machine (os.uname().machine), with sockets of these families only."""
    column = list(ARCHITECTURES).index(machine)
    refuse = _instruction(RETURN, ERRNO | errno.EPERM)
    parts = [
        _instruction(LOAD, ARCHITECTURE),
        _instruction(JUMP_EQUAL, ARCHITECTURES[machine], yes=1),
        _instruction(RETURN, KILL),  # a call of another architecture: other numbers
        _instruction(LOAD, NUMBER),
    ]
    if machine == "x86_64":
        parts += [_instruction(JUMP_ABOVE, X32 - 1, no=1), refuse]
    for numbers in REFUSED.values():
        number = numbers[column]
        if number is not None:
            parts += [_instruction(JUMP_EQUAL, number, no=1), refuse]
    # clone3 hides its flags from filters; "no such call" makes libc use clone.
    parts += [
        _instruction(JUMP_EQUAL, CLONE3[machine], no=1),
        _instruction(RETURN, ERRNO | errno.ENOSYS),
        _instruction(JUMP_EQUAL, CLONE[machine], no=4),
        _instruction(LOAD, FIRST),
        _instruction(JUMP_ANY_BIT, NEW_NAMESPACES, no=1),
        refuse,
        _instruction(RETURN, ALLOW),
        _instruction(JUMP_EQUAL, SOCKET[machine], no=len(families) * 2 + 2),
        _instruction(LOAD, FIRST),
    ]
    for family in families:
        parts += [_instruction(JUMP_EQUAL, family, no=1), _instruction(RETURN, ALLOW)]
    parts += [
        _instruction(RETURN, ERRNO | errno.EAFNOSUPPORT),
        _instruction(RETURN, ALLOW),
    ]
    return b"".join(parts)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install(families: tuple[int, ...]) -> None:
    """Filters this process and its children for good; OSError where the kernel cannot.

    The caller has set no_new_privs.
    """
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no seccomp filter for {machine}")
    code = program(machine, families)
    block = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(block), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")
