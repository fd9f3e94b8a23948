"""Reading a sampled assistant turn: one closed think block at most, then the answer.

`score` sees all text after `<|im_start|>assistant\\n`; under the hard switch the empty block that
the generation prompt already holds belongs to it. Stricter than `data.chat.parse`, which makes the
best of any text: a reward must not pay for a form that only a lenient reader understands.
"""

import re
from dataclasses import dataclass

ENDS = ("<|im_end|>", "<|endoftext|>")
CONTROL = ("<|im_start|>", *ENDS)
MODES = ("any", "think", "no_think")

# The full stop is the report's own stop text: `...directly now.\n</think>.\n\n`.
_TURN = re.compile(r"<think>\n(?P<thinking>.*)\n</think>\.?\n\n(?P<answer>.*)", re.DOTALL)


@dataclass(frozen=True)
class Response:
    """thinking is None where the turn has no block at all."""

    thinking: str | None
    answer: str

    def obeys(self, mode):
        """Whether the block is as `mode` asks: "think" non-empty, "no_think" present and empty."""
        if mode == "any":
            return True
        return self.thinking is not None and bool(self.thinking.strip()) == (mode == "think")


def read(text):
    """The turn as a Response, or None if it is malformed.

    Malformed: a block that is nested, repeated, unclosed, not at the start, or without its line
    breaks; a control token anywhere but at the end.
    """
    for end in ENDS:
        if text.endswith((end, end + "\n")):
            text = text.removesuffix("\n").removesuffix(end)
            break
    if any(token in text for token in CONTROL):
        return None
    opened, closed = text.count("<think>"), text.count("</think>")
    if opened == closed == 0:
        return Response(None, text.strip())
    turn = _TURN.fullmatch(text) if (opened, closed) == (1, 1) else None
    return None if turn is None else Response(turn["thinking"], turn["answer"].strip())


def formed(text, mode):
    """Whether the turn is well-formed, obeys `mode` (one of MODES) and answers something."""
    turn = read(text)
    return turn is not None and bool(turn.answer) and turn.obeys(mode)


def render(thinking, answer):
    """The turn as Qwen3 writes it; empty thinking gives the empty block."""
    return f"<think>\n{thinking}\n</think>\n\n{answer}"


def final_line(answer, marker="Answer:"):
    """What follows the only `marker`, which must open the last line; None otherwise."""
    if answer.count(marker) != 1:
        return None
    last = answer.rstrip().rsplit("\n", 1)[-1].strip()
    return last[len(marker) :].strip() if last.startswith(marker) else None
