"""Qwen3's chat format: messages to text and tokens, answers back to messages."""

from qwen3.data.chat_check import ROLES, check_depth, known_fields, validate
from qwen3.data.chat_parse import SWITCHES, Parsed, ToolCall, mode_of, parse
from qwen3.data.chat_prefix import prefix_breaks, render_suffix, training_views
from qwen3.data.chat_render import RenderedPiece, pieces, render
from qwen3.data.chat_template import CHAT_TEMPLATE, EMPTY_THINK
from qwen3.data.chat_tokens import render_tokens

__all__ = [
    "CHAT_TEMPLATE",
    "EMPTY_THINK",
    "ROLES",
    "SWITCHES",
    "Parsed",
    "RenderedPiece",
    "check_depth",
    "ToolCall",
    "known_fields",
    "mode_of",
    "parse",
    "pieces",
    "prefix_breaks",
    "render",
    "render_suffix",
    "render_tokens",
    "training_views",
    "validate",
]
