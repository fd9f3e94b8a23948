"""Reading a sampled assistant turn: one closed think block at most, then the answer.

`text` is all that follows `<|im_start|>assistant\\n`; under the hard switch the empty block that
the generation prompt already holds belongs to it. Stricter than `data.chat.parse`, which makes the
best of any text: a reward must not pay for a form that only a lenient reader understands.
"""

import re
from dataclasses import dataclass

ENDS = ("<|im_end|>", "<|endoftext|>")
CONTROL = ("<|im_start|>", *ENDS)
# What a problem may ask of the turn's mode. `losses.forward.MODES` are the modes of a token.
REQUIRED_MODES = ("any", "think", "no_think")

# The full stop is the report's own stop text: `...directly now.\n</think>.\n\n`.
_TURN = re.compile(r"<think>\n(?P<thinking>.*)\n</think>\.?\n\n(?P<answer>.*)", re.DOTALL)


@dataclass(frozen=True)
class Response:
    """An assistant turn, taken apart."""

    thinking: str | None  # content of the think block; None for a turn without a block
    answer: str  # the text after the block, stripped

    def obeys(self, mode: str) -> bool:
        """Whether the block is as `mode` asks: "think" non-empty, "no_think" present and empty."""
        if mode == "any":
            return True
        return self.thinking is not None and bool(self.thinking.strip()) == (mode == "think")


def read(text: str) -> Response | None:
    """The turn as a Response, or None if it is malformed.

    A turn is malformed if its block is nested, repeated, unclosed, not at the start or without its
    line breaks, or if a control token stands anywhere but at the end.
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


def formed(text: str, mode: str) -> bool:
    """Whether the turn is well-formed, obeys `mode` (of REQUIRED_MODES) and answers something."""
    turn = read(text)
    return turn is not None and bool(turn.answer) and turn.obeys(mode)


def render(thinking: str, answer: str) -> str:
    """The turn as Qwen3 writes it; empty thinking gives the empty block."""
    return f"<think>\n{thinking}\n</think>\n\n{answer}"


def final_line(answer: str, marker: str = "Answer:") -> str | None:
    """The text after the only `marker`, which must open the last line; None otherwise."""
    if answer.count(marker) != 1:
        return None
    last = answer.rstrip().rsplit("\n", 1)[-1].strip()
    return last[len(marker) :].strip() if last.startswith(marker) else None
