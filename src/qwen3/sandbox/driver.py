"""What runs inside the sandbox, as `python -I -S -c <this file>`: candidate code and its calls.

Reads one JSON job {code, entry, inputs, seconds} from file 0. Writes to a private copy of file 1
READY, then one JSON line per call: {"i", "value"} or {"i", "error"}. Nothing here is trusted:
expected values never enter this process, the other side compares. Standard library only, no
package imports.
"""

import json
import os
import signal
import sys

DEEPEST = 100
READY = "ready"


def encode(value, depth=0):
    """A plain value as tagged JSON; subclasses of containers (Counter, namedtuple) as their base.

    TypeError for any other type, ValueError if nested deeper than 100.
    """
    kind = type(value)
    if depth > DEEPEST:
        raise ValueError("nested too deep")
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return {"int": hex(value)}
    if kind is float:
        return {"float": value.hex()}
    if kind is complex:
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if kind is bytes:
        return {"bytes": value.hex()}
    for base in (list, tuple, set, frozenset):
        if isinstance(value, base):
            return {base.__name__: [encode(item, depth + 1) for item in base.__iter__(value)]}
    if isinstance(value, dict):
        pairs = dict.items(value)
        return {"dict": [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in pairs]}
    raise TypeError(f"{kind.__name__} is not a plain value")


READERS = {
    "int": lambda text: int(text, 16),
    "float": float.fromhex,
    "complex": lambda pair: complex(float.fromhex(pair[0]), float.fromhex(pair[1])),
    "bytes": bytes.fromhex,
    "list": lambda items: [decode(item) for item in items],
    "tuple": lambda items: tuple(decode(item) for item in items),
    "set": lambda items: {decode(item) for item in items},
    "frozenset": lambda items: frozenset(decode(item) for item in items),
    "dict": lambda pairs: {decode(key): decode(value) for key, value in pairs},
}


def decode(data):
    """The inverse of `encode`; ValueError for anything that `encode` cannot have written."""
    if data is None or type(data) in (bool, str):
        return data
    if type(data) is dict and len(data) == 1:
        ((tag, body),) = data.items()
        if tag in READERS:
            try:
                return READERS[tag](body)
            except (TypeError, AttributeError, IndexError, OverflowError) as error:
                raise ValueError(f"not a {tag}: {str(body)[:40]}") from error
    raise ValueError(f"not an encoded value: {str(data)[:40]}")


def main():
    job = json.load(sys.stdin)
    answers = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY) if os.path.exists(os.devnull) else 2
    os.dup2(nothing, 1)

    def say(record):
        data = json.dumps(record).encode() + b"\n"
        while data:
            data = data[os.write(answers, data) :]

    def late(*_):
        raise TimeoutError

    say(READY)  # nothing of the candidate has run: without this line the sandbox is at fault
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, job["seconds"])
    try:
        names = {"__name__": "candidate"}
        exec(compile(job["code"], "candidate", "exec"), names)
        entry = names[job["entry"]]
    except BaseException as error:
        say({"i": 0, "error": type(error).__name__})
        return
    for index, inputs in enumerate(job["inputs"]):
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])
        try:
            record = {"i": index, "value": encode(entry(*decode(inputs)))}
        except BaseException as error:
            record = {"i": index, "error": type(error).__name__}
        signal.setitimer(signal.ITIMER_REAL, 0)
        say(record)


if __name__ == "__main__":
    main()
