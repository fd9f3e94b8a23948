"""Attacks that try to reach something: files, network, processes, privileges, the kernel.

Each program defines `f(case)` and returns what it reached, an empty list if nothing. `case` is
{"secret", "outside", "abstract", "socket", "port", "trainer"}: a file of the trainer with the text
SECRET, a folder to write to, an abstract and a named unix socket, a port of the loopback and the
number of a process that listens there. HEAD stands before each.
"""

HEAD = """
import ctypes, errno, os, signal, socket, stat, sys, time
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    '''A raw system call; True if it succeeds.'''
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return libc.syscall(ctypes.c_long(number), *values) >= 0

def tried(**attempts):
    '''Names of the attempts that return something true.'''
    reached = []
    for name, attempt in attempts.items():
        try:
            if attempt():
                reached.append(name)
        except (OSError, ValueError, AttributeError, MemoryError):
            pass
    return reached

def secret(path):
    with open(path, 'rb') as file:
        return b'SECRET' in file.read()
"""

FILES = {
    "the absolute path": """
def f(case):
    return tried(read=lambda: secret(case["secret"]))
""",
    "a path of many dots": """
def f(case):
    return tried(
        **{str(n): lambda n=n: secret("../" * n + case["secret"][1:]) for n in (1, 5, 40)}
    )
""",
    "roots and folders of processes": """
def f(case):
    pids = ["self", "thread-self", "1", "2", str(os.getppid()), str(case["trainer"])]
    parts = ["root", "cwd"]
    paths = [f"/proc/{p}/{part}{case['secret']}" for p in pids for part in parts]
    return tried(**{path: lambda path=path: secret(path) for path in paths})
""",
    "open files of processes": """
def f(case):
    paths = [f"/proc/{p}/fd/{n}" for p in ("self", 1, case["trainer"]) for n in range(9)]
    paths += [f"/dev/fd/{n}" for n in range(9)]
    return tried(**{path: lambda path=path: open(path, "rb") for path in paths})
""",
    "a symbolic link": """
def f(case):
    os.symlink(case["secret"], "/tmp/link")
    return tried(link=lambda: secret("/tmp/link"))
""",
    "a hard link": """
def f(case):
    return tried(link=lambda: os.link(case["secret"], "/tmp/link") or secret("/tmp/link"))
""",
    "dots from an open folder": """
def f(case):
    folder = os.open("/", os.O_RDONLY)
    name = "../" * 20 + case["secret"][1:]
    return tried(open=lambda: os.read(os.open(name, os.O_RDONLY, dir_fd=folder), 99))
""",
    "file handles": """
def f(case):
    return tried(
        handle=lambda: call(304, 3, b"\\0" * 64, 0),
        name=lambda: call(303, -100, b"/", b"\\0" * 64, b"\\0" * 8, 0),
    )
""",
    "chroot and out again": """
def f(case):
    os.mkdir("/tmp/jail")
    return tried(chroot=lambda: os.chroot("/tmp/jail") is None)
""",
    "folders of the host": """
def f(case):
    names = "proc sys dev home root etc var run boot mnt media srv".split()
    paths = ["/" + name for name in names] + [os.path.dirname(case["secret"])]
    own = os.__file__
    reached = [
        path for path in paths if os.path.exists(path) and not own.startswith(path + "/")
    ]
    while len(own) > 1:  # on the way to the library stand its own folders alone
        own, name = os.path.split(own)
        if own in paths and os.listdir(own) != [name]:
            reached.append(own)
    return reached
""",
    "the environment": """
def f(case):
    return [name for name in os.environ if name != "LC_CTYPE"] + sys.argv[1:]
""",
    "another candidate's files": """
def f(case):
    with open("/tmp/SECRET", "w") as file:
        file.write("SECRET")
    return [n for n in os.listdir("/tmp") if n != "SECRET"]
""",
}

WRITES = {
    "sitecustomize": """
def f(case):
    places = [
        os.path.join(path, name)
        for path in sys.path + [sys.prefix, os.__file__[:-5]]
        for name in ("sitecustomize.py", "usercustomize.py", "x.pth")
    ]
    return tried(**{p: lambda p=p: open(p, "w").write("import os") for p in places})
""",
    "caches of the library": """
def f(case):
    folder = os.path.dirname(os.__file__)
    names = [folder + "/__pycache__/x.pyc", os.__file__, json_file()]
    return tried(**{n: lambda n=n: open(n, "ab").write(b"x") for n in names})

def json_file():
    import json

    return json.__file__
""",
    "removing and renaming the library": """
def f(case):
    return tried(
        unlink=lambda: os.unlink(os.__file__) is None,
        rename=lambda: os.rename(os.__file__, "/tmp/os.py") is None,
        folder=lambda: os.rename("/tmp", "/tmq") is None,
        rmdir=lambda: os.rmdir("/tmp") is None,
    )
""",
    "modes, owners, times and attributes": """
def f(case):
    p = os.__file__
    return tried(
        chmod=lambda: os.chmod(p, 0o777) is None,
        chown=lambda: os.chown(p, 0, 0) is None,
        utime=lambda: os.utime(p, (1, 1)) is None,
        attribute=lambda: os.setxattr(p, "user.x", b"1") is None,
        tmp=lambda: os.chmod("/", 0o777) is None,
    )
""",
    "devices": """
def f(case):
    kinds = {
        "sda": (stat.S_IFBLK, 8, 0),
        "mem": (stat.S_IFCHR, 1, 1),
        "null": (stat.S_IFCHR, 1, 3),
    }
    return tried(
        **{
            name: lambda k=k, n=name: (
                os.mknod("/tmp/" + n, 0o600 | k[0], os.makedev(*k[1:])) is None
            )
            for name, k in kinds.items()
        }
    )
""",
    "mounts, old interface": """
def f(case):
    return tried(
        tmpfs=lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0,
        bind=lambda: libc.mount(b"/", b"/tmp", None, 4096, None) == 0,
        remount=lambda: libc.mount(b"none", b"/", None, 32, None) == 0,
        unmount=lambda: libc.umount2(b"/tmp", 2) == 0,
    )
""",
    "mounts, new interface": """
def f(case):
    return tried(
        open_tree=lambda: call(428, -100, b"/", 1),
        fsopen=lambda: call(430, b"tmpfs", 0),
        move=lambda: call(429, -100, b"/", -100, b"/tmp", 0),
        attributes=lambda: call(442, -100, b"/", 0, b"\\0" * 32, 32),
    )
""",
    "the outside folder": """
def f(case):
    paths = [case["outside"] + "/x", "/x", "/etc/x", "/var/tmp/x", "/dev/shm/x", "/run/x"]
    return tried(**{p: lambda p=p: open(p, "w") for p in paths})
""",
    "a file without a name, linked into the library": """
def f(case):
    folder = os.path.dirname(os.__file__)
    return tried(tmpfile=lambda: os.open(folder, os.O_TMPFILE | os.O_RDWR))
""",
    "a set-uid program of its own": """
def f(case):
    with open("/tmp/prog", "wb") as out, open(sys.executable, "rb") as source:
        out.write(source.read(4096))
    os.chmod("/tmp/prog", 0o6755)

    def run():
        pid = os.fork()
        if pid == 0:
            try:
                os.execv("/tmp/prog", ["prog"])
            finally:
                os._exit(1)
        return os.waitpid(pid, 0)[1] == 0

    return tried(execute=run)
""",
    "more than its folder holds": """
def f(case):
    total = 0
    try:
        for n in range(64):
            with open(f"/tmp/{n}", "wb") as file:
                total += file.write(bytes(1 << 19))
    except OSError:
        pass
    return ["more than 16 MB"] if total > 16 << 20 else []
""",
    "a file of a terabyte": """
def f(case):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open("/tmp/big", "wb") as file:
        return tried(
            truncate=lambda: file.truncate(1 << 40) and True,
            allocate=lambda: os.posix_fallocate(file.fileno(), 0, 1 << 34) is None,
        )
""",
    "ten thousand files": """
def f(case):
    made = 0
    try:
        for n in range(10_000):
            os.close(os.open(f"/tmp/{n}", os.O_CREAT))
            made += 1
    except OSError:
        pass
    return ["more than 300 files"] if made > 300 else []
""",
}

NETWORK = {
    "an abstract socket of the trainer": """
def f(case):
    s = socket.socket(socket.AF_UNIX)
    return tried(connect=lambda: s.connect("\\0" + case["abstract"]) is None)
""",
    "a named socket of the trainer": """
def f(case):
    s = socket.socket(socket.AF_UNIX)
    return tried(connect=lambda: s.connect(case["socket"]) is None)
""",
    "sockets of services": """
def f(case):
    paths = [
        "/run/docker.sock",
        "/var/run/docker.sock",
        "/run/systemd/private",
        "/run/dbus/system_bus_socket",
        "/run/nscd/socket",
        "/tmp/.X11-unix/X0",
        "/dev/log",
    ]
    return tried(
        **{p: lambda p=p: socket.socket(socket.AF_UNIX).connect(p) is None for p in paths}
    )
""",
    "the loopback": """
def f(case):
    def tcp(host):
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        s.settimeout(0.2)
        s.connect((host, case["port"]))
        return True

    hosts = ["127.0.0.1", "127.1.2.3", "0.0.0.0", "::1", "::ffff:127.0.0.1", "::"]
    return tried(**{host: lambda host=host: tcp(host) for host in hosts})
""",
    "datagrams, broadcasts and names": """
def f(case):
    def send(host, port):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        return s.sendto(b"x", (host, port))

    hosts = ["255.255.255.255", "224.0.0.1", "8.8.8.8", "127.0.0.53", "169.254.169.254"]
    reached = tried(**{h: lambda h=h: send(h, 53) for h in hosts})
    return reached + tried(name=lambda: socket.getaddrinfo("example.com", 80))
""",
    "raw and packet sockets": """
def f(case):
    kinds = [
        (socket.AF_INET, socket.SOCK_RAW, 1),
        (socket.AF_INET, socket.SOCK_RAW, 255),
        (socket.AF_INET6, socket.SOCK_RAW, 58),
        (17, socket.SOCK_RAW, 0),
        (17, socket.SOCK_DGRAM, 0),
    ]
    return tried(**{str(k): lambda k=k: socket.socket(*k) for k in kinds})
""",
    "ping sockets": """
def f(case):
    def ping():
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
        return s.sendto(b"\\x08\\0\\0\\0\\0\\0\\0\\0", ("8.8.8.8", 0))

    return tried(ping=ping)
""",
    "every other family": """
def f(case):
    kinds = [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET]
    families = [n for n in range(50) if n not in (1, 2, 10)]
    return tried(
        **{
            str((n, int(k))): lambda n=n, k=k: socket.socket(n, k)
            for n in families
            for k in kinds
        }
    )
""",
    "pairs of other families": """
def f(case):
    return tried(**{str(n): lambda n=n: socket.socketpair(n) for n in (16, 17, 30, 38, 40)})
""",
    "interfaces": """
def f(case):
    import array

    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def up():
        request = b"lo" + b"\\0" * 14 + (0x41).to_bytes(2, "little") + b"\\0" * 22
        return libc.ioctl(s.fileno(), 0x8914, request) == 0

    return tried(up=up) + [
        n for _, n in socket.if_nameindex() if n != "lo" and not n.endswith("0")
    ]
""",
}

PROCESSES = {
    "signals to the trainer": """
def f(case):
    pids = [case["trainer"], -case["trainer"]]
    return tried(
        **{
            f"{pid} {sign}": lambda pid=pid, sign=sign: os.kill(pid, sign) is None
            for pid in pids
            for sign in (0, 9, 15, 19, 10)
        }
    )
""",
    "signals to all": """
def f(case):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        os.kill(-1, signal.SIGTERM)
    except OSError:
        pass
    return []
""",
    "other ways to signal": """
def f(case):
    pid = case["trainer"]
    return tried(
        tkill=lambda: call(200, pid, 9),
        tgkill=lambda: call(234, pid, pid, 9),
        queue=lambda: call(129, pid, 9, b"\\0" * 128),
        pidfd=lambda: os.pidfd_open(pid),
        group=lambda: os.killpg(pid, 9) is None,
    )
""",
    "tracing": """
def f(case):
    pids = [1, os.getppid(), case["trainer"]]
    return tried(**{str(p): lambda p=p: libc.ptrace(16, p, 0, 0) == 0 for p in pids})
""",
    "memory of others": """
def f(case):
    vector = (ctypes.c_size_t * 2)(0, 8)
    reached = tried(
        read=lambda: call(310, 1, vector, 1, vector, 1, 0),
        write=lambda: call(311, 1, vector, 1, vector, 1, 0),
        fd=lambda: call(438, 3, 0, 0),
        compare=lambda: call(312, 1, os.getpid(), 0, 0, 0),
    )
    return reached + tried(mem=lambda: open("/proc/1/mem", "rb"))
""",
    "limits and priorities of others": """
def f(case):
    import resource

    pid = case["trainer"]
    return tried(
        priority=lambda: os.setpriority(os.PRIO_PROCESS, pid, 19) is None,
        limit=lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1)),
        affinity=lambda: os.sched_setaffinity(pid, {0}) is None,
    )
""",
    "priorities of its own": """
def f(case):
    return tried(
        nice=lambda: os.nice(-20) < 0,
        realtime=lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)) is None,
        round=lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)) is None,
        io=lambda: call(251, 1, 0, (1 << 13) | 0),
    )
""",
    "raising its limits": """
def f(case):
    import resource

    names = [
        "RLIMIT_AS",
        "RLIMIT_CPU",
        "RLIMIT_NPROC",
        "RLIMIT_FSIZE",
        "RLIMIT_NOFILE",
        "RLIMIT_CORE",
        "RLIMIT_MEMLOCK",
    ]

    def more(name):
        number = getattr(resource, name)
        soft, hard = resource.getrlimit(number)
        resource.setrlimit(number, (hard + 1, hard + 1))
        return True

    return tried(**{name: lambda name=name: more(name) for name in names})
""",
    "other users": """
def f(case):
    reached = tried(
        uid=lambda: os.setuid(0) is None,
        gid=lambda: os.setgid(0) is None,
        groups=lambda: os.setgroups([0]) is None,
        res=lambda: os.setresuid(0, 0, 0) is None,
        capset=lambda: call(
            126, (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
        ),
    )
    libc.setfsuid(0)
    return (
        reached
        + (["fsuid"] if libc.setfsuid(-1) == 0 else [])
        + (["root"] if 0 in os.getresuid() else [])
    )
""",
    "capabilities": """
def f(case):
    return tried(
        bounding=lambda: libc.prctl(23, 21, 0, 0, 0) and libc.prctl(24, 21, 0, 0, 0) == 0,
        ambient=lambda: libc.prctl(47, 2, 21, 0, 0) == 0,
        privileges=lambda: libc.prctl(38, 0, 0, 0, 0) == 0,
        securebits=lambda: libc.prctl(28, 0, 0, 0, 0) == 0,
    )
""",
    "more processes than allowed": """
def f(case):
    pids = []
    try:
        while len(pids) < 40:
            pid = os.fork()
            if pid == 0:
                time.sleep(9)
                os._exit(0)
            pids.append(pid)
    except OSError:
        pass
    for pid in pids:
        os.kill(pid, 9)
    return ["%d processes" % len(pids)] if len(pids) > 8 else []
""",
    "more threads than allowed": """
def f(case):
    import threading

    go, threads = threading.Event(), []
    try:
        for _ in range(64):
            thread = threading.Thread(target=go.wait)
            thread.start()
            threads.append(thread)
    except (RuntimeError, MemoryError):
        pass
    go.set()
    return ["%d threads" % len(threads)] if len(threads) > 8 else []
""",
}

KERNEL = {
    "keyrings": """
def f(case):
    rings = (-1, -2, -3, -4, -5, -6, -8)
    reached = tried(
        add=lambda: call(248, b"user", b"x", b"y", 1, -3),
        request=lambda: call(249, b"user", b"x", 0, -3),
    )
    return reached + tried(
        **{
            f"{c} {r}": lambda c=c, r=r: call(250, c, r, 0, 0, 0)
            for c in (0, 1, 6, 11, 12)
            for r in rings
        }
    )
""",
    "io_uring": """
def f(case):
    return tried(
        setup=lambda: call(425, 8, b"\\0" * 256),
        enter=lambda: call(426, 3, 1, 1, 0, 0, 0),
        register=lambda: call(427, 3, 0, 0, 0),
    )
""",
    "userfaultfd": """
def f(case):
    return tried(**{str(n): lambda n=n: call(323, n) for n in (0, 1, 0x800, 0x80801)})
""",
    "memory files": """
def f(case):
    return tried(
        create=lambda: call(319, b"x", 0),
        secret=lambda: call(447, 0),
        python=lambda: os.memfd_create("x"),
    )
""",
    "shared segments and queues": """
def f(case):
    return tried(
        shm=lambda: libc.shmget(0, 1 << 24, 0o1600) >= 0,
        sem=lambda: libc.semget(0, 1, 0o1600) >= 0,
        msg=lambda: libc.msgget(0, 0o1600) >= 0,
        queue=lambda: call(240, b"x", 0o102, 0o600, 0),
        posix=lambda: __import__("multiprocessing.shared_memory").shared_memory.SharedMemory(
            create=True, size=9
        ),
    )
""",
    "bpf and performance counters": """
def f(case):
    return tried(
        **{f"bpf {n}": lambda n=n: call(321, n, b"\\0" * 128, 128) for n in (0, 5, 13)},
        perf=lambda: call(298, b"\\0" * 128, 0, -1, -1, 0),
    )
""",
    "namespaces": """
def f(case):
    flags = [
        0x10000000,
        0x20000000,
        0x40000000,
        0x00020000,
        0x02000000,
        0x04000000,
        0x08000000,
        0x80,
        0x10020000,
    ]
    reached = tried(**{f"unshare {n:x}": lambda n=n: call(272, n) for n in flags})

    def clone(flags):
        pid = libc.syscall(
            ctypes.c_long(56), ctypes.c_ulong(flags | 17), None, None, None, None
        )
        if pid == 0:
            os._exit(0)
        return pid > 0

    reached += tried(**{f"clone {n:x}": lambda n=n: clone(n) for n in flags if n != 0x80})
    arguments = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17)
    return reached + tried(
        clone3=lambda: call(435, arguments, 88), setns=lambda: call(308, 0, 0)
    )
""",
    "modules, boots and clocks": """
def f(case):
    return tried(
        init=lambda: call(175, b"", 0, b""),
        finit=lambda: call(313, 0, b"", 0),
        remove=lambda: call(176, b"x", 0),
        kexec=lambda: call(246, 0, 0, 0, 0),
        reboot=lambda: call(169, 0xFEE1DEAD, 672274793, 0, 0),
        clock=lambda: time.clock_settime(0, 0) is None,
        adjust=lambda: call(159, b"\\0" * 256),
        swap=lambda: call(168, b"/x"),
        host=lambda: call(170, b"x", 1),
        dmesg=lambda: call(103, 10, 0, 0),
        acct=lambda: call(163, 0),
        quota=lambda: call(179, 0, 0, 0, 0),
    )
""",
    "ports and descriptors of the processor": """
def f(case):
    return tried(
        iopl=lambda: call(172, 3),
        ioperm=lambda: call(173, 0, 9, 1),
        ldt=lambda: call(154, 0, b"\\0" * 64, 64),
        personality=lambda: call(135, 0x0040000),
        pages=lambda: call(216, 0, 0, 0, 0, 0),
    )
""",
    "numbers of another architecture": """
def f(case):
    bit = 0x40000000
    return tried(
        **{str(n): lambda n=n: call(n | bit, 0, 0, 0) for n in (39, 41, 56, 101, 250, 319, 425)}
    )
""",
    "32-bit calls in machine code": """
def f(case):
    import mmap

    code = bytes.fromhex("b814000000cd80c3")  # mov eax, 20 (getpid); int 0x80; ret
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ["pid %d" % ctypes.CFUNCTYPE(ctypes.c_int)(address)()]
""",
    "undoing the filter": """
def f(case):
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    allow = Program(1, bytes.fromhex("060000000000ff7f"))
    libc.prctl(22, 2, ctypes.byref(allow), 0, 0)
    return tried(
        keys=lambda: call(250, 6, -3, 0, 0),
        memory=lambda: call(319, b"x", 0),
        off=lambda: libc.prctl(22, 0, 0, 0, 0) == 0,
    )
""",
    "file notifications of the host": """
def f(case):
    return tried(
        fanotify=lambda: call(300, 0, 0),
        inotify=lambda: (
            libc.inotify_add_watch(libc.inotify_init(), case["secret"].encode(), 4095) >= 0
        ),
    )
""",
}

REACH = {
    "files of the host, secrets and other candidates are not read": FILES,
    "nothing outside its folder is written": WRITES,
    "no network": NETWORK,
    "no process but its own, no privileges": PROCESSES,
    "no system call that no computation needs": KERNEL,
}
