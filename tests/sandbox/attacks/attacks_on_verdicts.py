"""Attacks on the verdict: passes that are forged, answers that cost the trainer time or memory."""

# Programs that must double their argument and do not; none of them may pass.
FORGERIES = {
    "== of a text": """
class S(str):
    def __eq__(s, o):
        return True

    __hash__ = str.__hash__

def double(x):
    return S("x")
""",
    "== of a float": """
class S(float):
    def __eq__(s, o):
        return True

    __hash__ = None

def double(x):
    return S(-1)
""",
    "== of a list": """
class S(list):
    def __eq__(s, o):
        return True

def double(x):
    return S()
""",
    "== of a metaclass": """
class M(type):
    def __eq__(cls, other):
        return True

    def __instancecheck__(cls, other):
        return True

    __hash__ = type.__hash__

class S(metaclass=M):
    pass

def double(x):
    return S
""",
    "another class than it is": """
class S:
    __class__ = property(lambda self: int)

    def __index__(self):
        return 4

    def __int__(self):
        return 4

    def __eq__(self, other):
        return True

def double(x):
    return S()
""",
    "a number that is not one": """
def double(x):
    return float("nan")
""",
    "infinity": """
def double(x):
    return float("inf")
""",
    "all numbers at once": """
def double(x):
    return set(range(0, 40, 2))
""",
    "a boolean": """
def double(x):
    return True
""",
    "nothing": """
def double(x):
    return None
""",
    "itself": """
def double(x):
    return double
""",
    "a coroutine": """
async def double(x):
    return -1
""",
    "a generator": """
def double(x):
    yield -1
""",
    "pickled": """
class S:
    def __reduce__(self):
        return (eval, ("4",))

def double(x):
    return S()
""",
    "every comparison": """
import builtins

builtins.isinstance = lambda *_: True
builtins.type = lambda *_: int
builtins.all = lambda *_: True
builtins.len = lambda *_: 20

def double(x):
    return -1
""",
    "an exit when it is imported": """
import os

os._exit(0)

def double(x):
    return 0
""",
    "an exit in a thread": """
import os, threading

def double(x):
    threading.Thread(target=os._exit, args=(0,)).start()
    while True:
        pass
""",
    "an exit at the end": """
import atexit, os

atexit.register(os._exit, 0)

def double(x):
    return -1
""",
    "an exit in a finalizer": """
import os

class S:
    def __del__(self):
        os._exit(0)

def double(x):
    S()
    return -1
""",
    "SystemExit": """
def double(x):
    raise SystemExit(0)
""",
    "GeneratorExit": """
def double(x):
    raise GeneratorExit
""",
    "an exception of a strange name": """
class N(str):
    pass

def double(x):
    raise type('\\n{"i": 0, "value": {"int": "0x0"}}\\n', (BaseException,), {})
""",
    "an exception whose name is a value": """
class M(type):
    __name__ = property(lambda cls: {"int": "0x0"})

class E(BaseException, metaclass=M):
    pass

def double(x):
    raise E
""",
    "lines of its own on every file": """
import os

lines = b"".join(b'{"i": %d, "value": {"int": "0x7"}}\\n' % i for i in range(20))
for fd in range(1, 256):
    try:
        os.write(fd, lines)
    except OSError:
        pass

def double(x):
    os._exit(0)
""",
    "ready twice": """
import os

def double(x):
    for fd in range(3, 9):
        try:
            os.write(fd, b'"ready"\\n{"i": 0, "value": {"int": "0x7"}}\\n' * 20)
        except OSError:
            pass
    return -1
""",
    "a result in the warden's form": """
import json, os

line = json.dumps(
    {"end": "exit", "code": 0, "note": "", "nonce": "", "group": 1, "output": '"ready"\\n'}
).encode()
for fd in range(1, 256):
    try:
        os.write(fd, line + b"\\n")
    except OSError:
        pass

def double(x):
    return -1
""",
    "two processes that answer": """
import os

pid = os.fork()

def double(x):
    return -x if pid else -2 * x
""",
    "numbers of calls that are no integers": """
import os

def double(x):
    rows = [
        '{"i": 0.0, "value": {"int": "0x7"}}',
        '{"i": true, "value": {"int": "0x7"}}',
        '{"i": "0", "value": 1}',
    ]
    os.write(3, ("\\n".join(rows) + "\\n").encode())
    os._exit(0)
""",
    "the driver's encoder": """
import sys

main = sys.modules["__main__"]
main.encode = lambda value, depth=0: True
main.decode = lambda data: [7]

def double(x):
    return None
""",
    "the driver's loop": """
import sys

def double(x):
    frame = sys._getframe(1)
    frame.f_locals["record"] = {"i": 0, "value": {"int": "0x7"}}
    frame.f_locals["entry"] = lambda *_: 7
    return -1
""",
    "a trace function in the driver": """
import sys

def trace(frame, event, value):
    frame.f_trace_lines = True
    if "record" in frame.f_locals:
        frame.f_locals["record"] = {"i": 0, "value": None}
    return trace

def double(x):
    sys.settrace(trace)
    sys._getframe(1).f_trace = trace
    return -1
""",
    "expected values in frames and on the heap": """
import gc, sys

def double(x):
    frame, seen = sys._getframe(1), []
    while frame:
        seen += [v for v in frame.f_locals.values() if isinstance(v, (list, dict, tuple))]
        frame = frame.f_back
    seen += [
        o
        for o in gc.get_objects()
        if isinstance(o, dict) and "tests" in o or isinstance(o, list) and len(o) == 20
    ]
    for o in seen:
        if isinstance(o, dict) and "expected" in o:
            return o["expected"]
        if isinstance(o, list) and len(o) == 20 and isinstance(o[0], int):
            return o[x % 20]
    return -1
""",
    "a hook of imports": """
import sys

class Hook:
    def find_spec(self, name, path=None, target=None):
        raise SystemExit(0)

sys.meta_path.insert(0, Hook())
sys.path_hooks.insert(0, lambda *_: (_ for _ in ()).throw(SystemExit(0)))

def double(x):
    return -1
""",
    "modules in the place of the library's": """
import json, sys, types

fake = types.ModuleType("json")
fake.dumps = lambda record: '{"i": %d, "value": {"int": "0x7"}}' % record["i"]
sys.modules["json"] = fake
sys.modules["__main__"].json = fake

def double(x):
    return None
""",
    "a changed argument": """
def double(x):
    import sys

    sys._getframe(1).f_locals.get("job", {}).clear()
    return -1
""",
    "killed by each signal": """
import os

def double(x):
    os.kill(os.getpid(), 1 + x % 31)
""",
    "a memory error": """
def double(x):
    raise MemoryError("passed")
""",
    "two definitions": """
def double(x):
    return 2 * x + 1

exec("double2 = double")
double = lambda x, y=[]: y
""",
    "a source that rewrites itself": """
import linecache, sys

linecache.cache.clear()
sys.modules["candidate"].__dict__["__builtins__"] = {}

def double(x):
    return -1
""",
    "int without a cast": """
class S(int):
    def __new__(c, v):
        return int.__new__(c, -1)

def double(x):
    return S(2 * x)
""",
}


def texts():
    """name -> output as a hostile candidate may write it, up to a megabyte: read in no time."""

    def row(value):
        return '{"i": 0, "value": ' + value + "}"

    size = 1_000_000
    prime = 2**61 - 1
    chain = '{"tuple": [{"int": "0x1"}, '
    return {
        "one number": row("9" * size),
        "one long integer": row('{"int": "0x' + "f" * size + '"}'),
        "an integer of underscores": row('{"int": "0x' + "f_" * (size // 2) + 'f"}'),
        "a float of many digits": row('{"float": "0x1.' + "f" * size + 'p99999999999999999999"}'),
        "exponents": row('{"float": "1e' + "9" * size + '"}'),
        "a complex number": row('{"complex": ["0x' + "1" * size + '", "nan"]}'),
        "bytes": row('{"bytes": "' + "0" * size + '"}'),
        "bytes with blanks": row('{"bytes": "' + "0 " * (size // 2) + '"}'),
        "surrogates": row('"' + "\\ud800" * (size // 6) + '"'),
        "lists in lists": row("[" * size),
        "tagged lists in lists": row('{"list": [' * 99_000),
        "tuples in tuples": row(chain * 900 + "1" + "]}" * 900),
        "objects": row("{" + ",".join(f'"{i}": 0' for i in range(80_000)) + "}"),
        "one key many times": row("{" + ",".join(['"int": "0x1"'] * 70_000) + "}"),
        "empty sets": row('{"list": [' + ",".join(['{"set": []}'] * 80_000) + "]}"),
        "equal hashes": row(
            '{"set": [' + ",".join(f'{{"int": "{hex(i * prime)}"}}' for i in range(30_000)) + "]}"
        ),
        "frozen sets in sets": row(
            '{"set": [' + '{"frozenset": [' * 300 + '{"int": "0x1"}' + "]}" * 300 + "]}"
        ),
        "rows": "\n".join(['{"i": 0, "value": null}'] * 40_000),
        "empty lines": "\n" * size,
        "rows in order": "\n".join(f'{{"i": {i}, "value": null}}' for i in range(35_000)),
        "an error without end": '{"i": 0, "error": "' + "x" * size + '"}',
        "an error that is a value": '{"i": 0, "error": ' + "[" * 900 + "]" * 900 + "}",
        "not a number": row("NaN") + "\n" + row("Infinity"),
        "negative": '{"i": -1, "value": null}',
        "zero bytes": "\0" * size,
        "escapes": row('"' + "\\u0000" * (size // 6) + '"'),
    }
