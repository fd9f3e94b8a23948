"""The program inside of the sandbox, run as `python -I -S -c <this file>`: candidate and its calls.

Reads one JSON job {preamble, code, entry, inputs, seconds, stop_at_error} from file 0. Writes to a
private copy of file 1 READY, then one JSON line per call: {"i", "value"} or {"i", "error"}. Nothing
here is trusted: expected values never enter this process, the other side compares.

The candidate runs as an imported file does: a module of its own, NAME, that stands in
`sys.modules` and whose source `inspect` can find; `from __future__` counts at its own top,
whatever the preamble holds. Standard library only, no package imports.
"""

import json
import linecache
import os
import signal
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

DEEPEST = 100
READY = "ready"
ITERABLES: tuple[Any, ...] = (list, tuple, set, frozenset)
NAME = "candidate"
MOST_COLLISIONS = (
    64  # items of a set or dict with one hash; each costs a comparison with the others
)


def encode(value: Any, depth: int = 0) -> Any:
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
    for base in ITERABLES:
        if isinstance(value, base):
            return {base.__name__: [encode(item, depth + 1) for item in base.__iter__(value)]}
    if isinstance(value, dict):
        pairs = dict.items(value)
        return {"dict": [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in pairs]}
    raise TypeError(f"{kind.__name__} is not a plain value")


def spread(items: Iterable[Any]) -> list[Any]:
    """The items as a list; ValueError if so many share a hash that a set of them is quadratic."""
    items = list(items)
    hashes = Counter(map(hash, items))
    if hashes and max(hashes.values()) > MOST_COLLISIONS:
        raise ValueError(f"more than {MOST_COLLISIONS} items with one hash")
    return items


def _dict(pairs: list[list[Any]]) -> dict:
    keys = spread(decode(key) for key, _ in pairs)
    return dict(zip(keys, (decode(value) for _, value in pairs), strict=True))


READERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "float": float.fromhex,
    "complex": lambda pair: complex(float.fromhex(pair[0]), float.fromhex(pair[1])),
    "bytes": bytes.fromhex,
    "list": lambda items: [decode(item) for item in items],
    "tuple": lambda items: tuple(decode(item) for item in items),
    "set": lambda items: set(spread(decode(item) for item in items)),
    "frozenset": lambda items: frozenset(spread(decode(item) for item in items)),
    "dict": _dict,
}


def decode(data: Any) -> Any:
    """The inverse of `encode`, linear in the size of `data`.

    ValueError for anything that `encode` cannot have written, and for sets and dicts made to
    collide.
    """
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


def load(preamble: str, code: str) -> dict[str, Any]:
    """The names of the candidate's module after its code has run."""
    module = types.ModuleType(NAME)
    module.__file__ = f"{NAME}.py"
    sys.modules[NAME] = module
    for name, source in (("preamble.py", preamble), (module.__file__, code)):
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def main() -> None:
    job = json.load(sys.stdin)
    answers = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY) if os.path.exists(os.devnull) else 2
    os.dup2(nothing, 1)
    sys.set_int_max_str_digits(0)  # time is bounded; the digits of a large number are no error

    def say(record: Any) -> None:
        data = json.dumps(record).encode() + b"\n"
        while data:
            data = data[os.write(answers, data) :]

    def late(*_: Any) -> None:
        raise TimeoutError

    say(READY)  # nothing of the candidate has run: without this line the sandbox is at fault
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, job["seconds"])
    try:
        entry = load(job["preamble"], job["code"])[job["entry"]]
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
        if "error" in record and job["stop_at_error"]:
            return


if __name__ == "__main__":
    main()
