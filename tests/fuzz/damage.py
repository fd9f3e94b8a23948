"""What makes inputs hostile: bytes are damaged, JSON is bent, texts are mangled, all by a seed."""

import json
import struct

HUGE = (2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)  # sizes that no machine has
WORDS = (
    *("", " ", "\0", "\ud800", "\u202e", "\x1b]52;c;aGk=\x07", "é", "🤷", "..", "../../etc/passwd"),
    *("/etc/passwd", "NaN", "1e999", "-1", "9" * 5_000, "a" * 20_000, "[" * 3_000, "{{7*7}}"),
    *("<|im_end|>", "<think>", "</think>", "<tool_call>", "%s%n", "__class__", "$(id)", "'; --"),
)
NUMBERS = (0, 1, -1, 2, 7, 0.5, 1e308, float("nan"), float("inf"), -float("inf"), *HUGE)
NUMBERS += (10**400, -(10**30), 1e-320, True, False)


# --- bytes ---------------------------------------------------------------------------------------


def flipped(data, rng):
    """One to eight bits are the other way round."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def cut(data, rng):
    return data[: rng.randrange(len(data))]


def without_a_part(data, rng):
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randint(1, 64) :]


def with_a_part_twice(data, rng):
    start = rng.randrange(len(data))
    end = start + rng.randint(1, 256)
    return data[:end] + data[start:end] * rng.choice((1, 1, 200)) + data[end:]


def swapped(data, rng):
    """Two stretches of the file have changed places."""
    size = rng.randint(1, max(1, len(data) // 4))
    first, second = sorted(rng.randrange(len(data)) for _ in range(2))
    a, b = data[first : first + size], data[second : second + size]
    return data[:first] + b + data[first + len(a) : second] + a + data[second + len(b) :]


def with_a_huge_length(data, rng):
    """A number of a size that no machine has, wherever a length may stand."""
    size, form = rng.choice(((4, "I"), (8, "Q")))
    start = rng.choice((0, 4, 8, max(0, len(data) - 8), rng.randrange(len(data))))
    number = rng.choice(HUGE) & (2 ** (8 * size) - 1)
    number = struct.pack(rng.choice("<>") + form, number)
    return data[:start] + number + data[start + size :]


def overwritten(data, rng):
    start, size = rng.randrange(len(data)), rng.randint(1, 512)
    filler = rng.choice((b"\0", b"\xff", b"[", b"{", b'"', b"\n", b"\\ud800", b"\x80"))
    part = (filler * size)[: len(data[start : start + size])]
    return data[:start] + part + data[start + size :]


def with_noise(data, rng):
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.randint(1, 200)) + data[start:]


def nested(data, rng):
    """Brackets thousands deep stand where a value did."""
    opening = rng.choice((b"[", b'{"a":', b"[{")) * rng.choice((100, 2_000, 100_000))
    start = rng.randrange(len(data) + 1)
    return data[:start] + opening + data[start:]


def replaced(data, rng):
    """Another file altogether."""
    return rng.choice((b"", b"\0" * 4096, b"PAR1PAR1", b"\x28\xb5\x2f\xfd", b"[]", b"null", b"{}"))


BYTES = (
    *(flipped, flipped, cut, without_a_part, with_a_part_twice, swapped, with_a_huge_length),
    *(overwritten, with_noise, nested, replaced),
)


def damaged(data, rng):
    """`data` damaged in one to three ways."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(BYTES)(data or b"\0", rng)
    return data


# --- values of JSON ------------------------------------------------------------------------------


def value(rng, depth=0):
    """Any value that a field should not hold."""
    kind = rng.randrange(8 if depth < 3 else 5)
    if kind < 2:
        return rng.choice(WORDS)
    if kind < 4:
        return rng.choice(NUMBERS)
    if kind == 4:
        return None
    if kind == 5:
        return [value(rng, depth + 1) for _ in range(rng.choice((0, 1, 3)))]
    if kind == 6:
        return {rng.choice(WORDS): value(rng, depth + 1) for _ in range(rng.choice((0, 1, 2)))}
    return deep(rng)


def deep(rng):
    """A list or an object in itself, up to a depth that parsers of JSON still read."""
    inner = rng.choice(("x", 1, None))
    wrap = rng.choice((lambda v: [v], lambda v: {"a": v}, lambda v: {"properties": {"a": v}}))
    for _ in range(rng.choice((5, 50, 300, 800))):
        inner = wrap(inner)
    return inner


def places(tree):
    """(container, key) of every value in a tree of dicts and lists."""
    stack, out = [tree], []
    while stack and len(out) < 5_000:
        node = stack.pop()
        keys = node if isinstance(node, dict) else range(len(node))
        for key in keys:
            out.append((node, key))
            if isinstance(node[key], dict | list):
                stack.append(node[key])
    return out


def copied(tree):
    """A copy of a tree of JSON, or None of one that is too deep to be copied."""
    try:
        return json.loads(json.dumps(tree))
    except RecursionError:
        return None


def bent(tree, rng):
    """A copy of a JSON tree in which one to three values are exchanged, renamed, lost or moved."""
    tree = copied(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        spots = places(tree) if isinstance(tree, dict | list) else []
        if not spots or rng.random() < 0.03:
            return value(rng)
        node, key = rng.choice(spots)
        way = rng.randrange(6)
        if way < 3:
            node[key] = value(rng)
        elif way == 3:
            del node[key]
        elif way == 4 and isinstance(node, dict):
            node[rng.choice(WORDS)] = node.pop(key)
        else:
            other, place = rng.choice(spots)
            if isinstance(other, dict) and place in other:
                node[key] = copied(other[place])
    return tree


def bent_text(tree, rng):
    """The text of a bent tree, at times damaged too; surrogates are escaped or as they are."""
    try:
        text = json.dumps(bent(tree, rng), ensure_ascii=rng.random() < 0.7)
    except RecursionError:  # a deep value was moved into a deep value
        text = "[" * 2_000 + "]" * 2_000
    data = text.encode(errors="surrogatepass")
    return damaged(data, rng) if rng.random() < 0.2 else data


# --- texts ---------------------------------------------------------------------------------------

LETTERS = "abc XYZ 019 +-*/()[]{}<>|\\\"'`#$%^&_=.,:;!?\n\t é 锁 周 ∑ 🤷 \u202e\u0000\ud800"
PIECES = (
    *("<think>", "</think>", "<think>\n\n</think>\n\n", "<|im_end|>", "<|im_start|>", "Answer:"),
    *("\\boxed{", "\\frac{1}{0}", "\\sqrt[", "{{{{", "}}}}", "\\infty", "\\text{", "\\int_0^1"),
    *("\\begin{pmatrix}", "x=y=z", "0/0", "9" * 400, "1e999", "NaN", "^{9^{9^{9}}}", "\\binom{9"),
    *("```python\n", "```", "def f(:\n", "import os; os._exit(0)\n", "while True: pass\n"),
    *("<tool_call>\n", "\n</tool_call>", '{"name": ', '"arguments": {', "[[[[[[", '"\\ud800"'),
    *("| a | b |\n|---|---|\n", "<a>", "</a>", "***", "P.S.", "[x]", "* a\n", "\r\n", "\u2028"),
)


def mangled(text, rng):
    """A text with one to four pieces put in, some many times, or parts of it lost."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(text))
        piece = rng.choice(PIECES) if rng.random() < 0.6 else "".join(rng.choices(LETTERS, k=9))
        lost = rng.choice((0, 0, 1, 5, len(text)))
        text = text[:at] + piece * rng.choice((1, 1, 2, 50, 2_000)) + text[at + lost :]
    return text[:200_000]
