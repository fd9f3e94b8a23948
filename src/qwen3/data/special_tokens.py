"""The 26 added tokens, in id order, with their flags (golden facts; report 3.1).

`special` tokens are control tokens: `decode(skip_special=True)` drops them. The others (thinking,
tools, fill in the middle) are content that a user may want to read, so decoding keeps them.
"""

from typing import NamedTuple

OFFICIAL_RANKS = 151_643  # 256 bytes and 151,387 merges
OFFICIAL_ROWS = 151_936  # rows of the embedding in every released size, 128 * 1187


class Added(NamedTuple):
    text: str
    name: str  # the attribute of `Tokenizer` that holds its id
    special: bool


ADDED_TOKENS = (
    Added("<|endoftext|>", "endoftext", True),
    Added("<|im_start|>", "im_start", True),
    Added("<|im_end|>", "im_end", True),
    Added("<|object_ref_start|>", "object_ref_start", True),
    Added("<|object_ref_end|>", "object_ref_end", True),
    Added("<|box_start|>", "box_start", True),
    Added("<|box_end|>", "box_end", True),
    Added("<|quad_start|>", "quad_start", True),
    Added("<|quad_end|>", "quad_end", True),
    Added("<|vision_start|>", "vision_start", True),
    Added("<|vision_end|>", "vision_end", True),
    Added("<|vision_pad|>", "vision_pad", True),
    Added("<|image_pad|>", "image_pad", True),
    Added("<|video_pad|>", "video_pad", True),
    Added("<tool_call>", "tool_call_open", False),
    Added("</tool_call>", "tool_call_close", False),
    Added("<|fim_prefix|>", "fim_prefix", False),
    Added("<|fim_middle|>", "fim_middle", False),
    Added("<|fim_suffix|>", "fim_suffix", False),
    Added("<|fim_pad|>", "fim_pad", False),
    Added("<|repo_name|>", "repo_name", False),
    Added("<|file_sep|>", "file_sep", False),
    Added("<tool_response>", "tool_response_open", False),
    Added("</tool_response>", "tool_response_close", False),
    Added("<think>", "think_open", False),
    Added("</think>", "think_close", False),
)
CONTROL_TEXTS = tuple(token.text for token in ADDED_TOKENS if token.special)

# One piece per word, per digit, per run of punctuation, per run of blanks. Needs look-ahead.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
