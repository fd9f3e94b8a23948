"""Addresses and numbers of people, replaced by a word for what stood there.

FineWeb (arXiv 2406.17557, section 3.7) replaces mail and public network addresses; numbers of
cards and accounts are recognised by their check digits, so that other numbers stay.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qwen3.pipeline.text_record import TextRecord


@dataclass(frozen=True)
class PersonalPattern:
    """A pattern, the check that a match must pass, and worked examples (text, result)."""

    pattern: re.Pattern[str]
    hint: str  # a lower-case part of every match, looked for first because that is fast; or ""
    is_one: Callable[[str], bool]
    examples: tuple[tuple[str, str], ...] = field(repr=False)


def luhn(digits: str) -> bool:
    """The check digit of card numbers (ISO/IEC 7812-1)."""
    values = [int(digit) for digit in digits if digit.isdigit()]
    doubled = [sum(divmod(2 * value, 10)) for value in values[-2::-2]]
    return len(set(values)) > 1 and (sum(values[-1::-2]) + sum(doubled)) % 10 == 0


def iban(account: str) -> bool:
    """The check digits of account numbers (ISO 13616, modulo 97)."""
    letters = account.replace(" ", "").upper()
    moved = letters[4:] + letters[:4]
    return 15 <= len(letters) <= 34 and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def public_address(text: str) -> bool:
    """Whether a dotted quad is an address of the public network, not a version or a private one."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _always(match: str) -> bool:
    return True


PATTERNS = {
    "email": PersonalPattern(
        re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"),
        "@",
        _always,
        (("write to jane.doe+x@mail.example.org.", "write to [email]."), ("a @ b", "a @ b")),
    ),
    "network_address": PersonalPattern(
        re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.]*\d)"),
        ".",
        public_address,
        (
            ("from 8.8.4.4, not 10.0.0.1", "from [network_address], not 10.0.0.1"),
            ("version 1.2.3.4.5", "version 1.2.3.4.5"),
        ),
    ),
    "card_number": PersonalPattern(
        re.compile(r"(?<![\d.,-])\d{4}([ -]?)\d{4}\1\d{4}\1\d{1,7}(?![\d.,-]*\d)"),
        "",
        luhn,
        (
            ("card 4111 1111 1111 1111.", "card [card_number]."),
            ("order 4111 1111 1111 1112.", "order 4111 1111 1111 1112."),
        ),
    ),
    "bank_account": PersonalPattern(
        re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
        "",
        iban,
        (
            ("IBAN GB82 WEST 1234 5698 7654 32!", "IBAN [bank_account]!"),
            ("GB82 WEST 1234 5698 7654 33", "GB82 WEST 1234 5698 7654 33"),
        ),
    ),
    "phone": PersonalPattern(
        re.compile(
            r"(?<![\w+])\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]\d{2,4}){2,4}\b"
        ),
        "+",
        _always,
        (("call +49 30 1234 5678 now", "call [phone] now"), ("1 + 2 3 4", "1 + 2 3 4")),
    ),
    "secret_key": PersonalPattern(
        re.compile(
            r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|AIza[\w-]{35}|xox[abp]-[\w-]{20,})\b"
            r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----",
            re.S,
        ),
        "",
        _always,
        (("id AKIAABCDEFGHIJKLMNOP here", "id [secret_key] here"),),
    ),
}


def replace(text: str, kinds: Sequence[str] = tuple(PATTERNS)) -> tuple[str, Counter[str]]:
    """(the text with [kind] in the place of what was recognised, how often by kind)."""
    counts: Counter[str] = Counter()
    for kind in kinds:
        entry = PATTERNS[kind]
        if entry.hint and entry.hint not in text:
            continue

        def word(match: re.Match[str], kind: str = kind) -> str:
            if not PATTERNS[kind].is_one(match.group()):
                return match.group()
            counts[kind] += 1
            return f"[{kind}]"

        text = entry.pattern.sub(word, text)
    return text, counts


def build(
    kinds: Sequence[str] = tuple(PATTERNS), most: float = 0.02
) -> Callable[[TextRecord], TextRecord]:
    """The step: replace what is recognised; drop texts with more than `most` matches a word, which
    are lists of addresses."""
    if unknown := [kind for kind in kinds if kind not in PATTERNS]:
        raise ValueError(f"personal_data: kinds {unknown}; choose from {list(PATTERNS)}")

    def apply(record: TextRecord) -> TextRecord:
        text, counts = replace(record.text, kinds)
        if not counts:
            return record
        words = len(text.split())
        names = ", ".join(f"{kind} x{count}" for kind, count in sorted(counts.items()))
        record = record.rewritten(text, f"personal_data: {names}")
        if counts.total() > max(most * words, 3):
            return record.drop("personal_data", "address_list", matches=counts.total(), words=words)
        return record

    return apply
