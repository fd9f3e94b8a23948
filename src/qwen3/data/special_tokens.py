"""The 26 tokens that Qwen3 adds to its byte-level BPE, in id order, with their flags.

`special` tokens are control tokens: `decode(skip_special=True)` drops them. The others (thinking,
tools, fill in the middle) are content that a user may want to read, so decoding keeps them.
(Qwen3 report 3.1; the released tokenizer.json)
"""

from typing import NamedTuple

OFFICIAL_RANKS = 151_643  # 256 bytes and 151,387 merges
OFFICIAL_ROWS = 151_936  # rows of the embedding in every released size, 128 * 1187


class AddedToken(NamedTuple):
    """A token that is matched in text before the BPE, and is never split."""

    text: str
    name: str  # the attribute of `Tokenizer` that holds its id
    special: bool  # a control token


ADDED_TOKENS = (
    AddedToken("<|endoftext|>", "endoftext", True),
    AddedToken("<|im_start|>", "im_start", True),
    AddedToken("<|im_end|>", "im_end", True),
    AddedToken("<|object_ref_start|>", "object_ref_start", True),
    AddedToken("<|object_ref_end|>", "object_ref_end", True),
    AddedToken("<|box_start|>", "box_start", True),
    AddedToken("<|box_end|>", "box_end", True),
    AddedToken("<|quad_start|>", "quad_start", True),
    AddedToken("<|quad_end|>", "quad_end", True),
    AddedToken("<|vision_start|>", "vision_start", True),
    AddedToken("<|vision_end|>", "vision_end", True),
    AddedToken("<|vision_pad|>", "vision_pad", True),
    AddedToken("<|image_pad|>", "image_pad", True),
    AddedToken("<|video_pad|>", "video_pad", True),
    AddedToken("<tool_call>", "tool_call_open", False),
    AddedToken("</tool_call>", "tool_call_close", False),
    AddedToken("<|fim_prefix|>", "fim_prefix", False),
    AddedToken("<|fim_middle|>", "fim_middle", False),
    AddedToken("<|fim_suffix|>", "fim_suffix", False),
    AddedToken("<|fim_pad|>", "fim_pad", False),
    AddedToken("<|repo_name|>", "repo_name", False),
    AddedToken("<|file_sep|>", "file_sep", False),
    AddedToken("<tool_response>", "tool_response_open", False),
    AddedToken("</tool_response>", "tool_response_close", False),
    AddedToken("<think>", "think_open", False),
    AddedToken("</think>", "think_close", False),
)
CONTROL_TEXTS = tuple(token.text for token in ADDED_TOKENS if token.special)

# The pre-tokeniser: one piece per word, digit, run of punctuation or run of blanks.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
