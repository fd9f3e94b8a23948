"""A whole conversation -> token ids and a loss mask, in one rendering and one encoding.

The mask comes from the character where each token starts, so it is exact without decoding or
encoding parts again. A token that begins in the prompt and reaches into the answer (a line break
before and after the border merge into one) is not trained on: at inference the prompt ends first.
"""

from collections.abc import Collection, Mapping, Sequence

from qwen3.data import chat_render
from qwen3.data.chat_check import ROLES
from qwen3.data.chat_render import RenderedPiece
from qwen3.data.tokenizer import Tokenizer

PARTS = ("think", "content", "calls", "end")
TURNS = ("all", "loop", "last")
EMPTY_THINK_USES = ("target", "prompt")


def render_tokens(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping],
    *,
    tools: Sequence[Mapping] | None = None,
    enable_thinking: bool | None = None,
    add_generation_prompt: bool = False,
    keep_thinking: bool = False,
    train_on: str | Collection[int] = "all",
    parts: Collection[str] = PARTS,
    empty_think: str = "target",
    literal_roles: Collection[str] = (),
) -> tuple[list[int], list[int]]:
    """(ids, loss_mask) of equal length; loss_mask[i] = 1 where token i is to be predicted.

    train_on: "all" assistant turns, those of the last "loop" (after the last question, where
        thinking is shown), the "last" one, or the indices of messages.
    parts: which of an assistant turn's parts are targets: "think" (the block with its tags),
        "content", "calls", "end" (the <|im_end|>; the line break behind it never is).
    empty_think: an empty block is a "target" (soft switch: the model writes it itself) or
        "prompt" (hard switch: the generation prompt holds it).
    literal_roles: roles whose content is encoded with control tokens as plain text; () gives
        exactly tokenizer.encode(chat_render.render(...)). With any, tools' schemas are plain text
        too, and in assistants' messages the special tokens, but not the tags of thoughts and calls.
    ValueError for an unknown choice and for a train_on index that is no assistant message.
    """
    trained_parts = _trained_parts(parts, empty_think)
    unknown = set(literal_roles) - set(ROLES)
    if unknown:
        raise ValueError(f"literal_roles {sorted(unknown)}: choose from {ROLES}")
    turns = _turns(messages, train_on)
    pieces = chat_render.pieces(
        messages,
        tools=tools,
        add_generation_prompt=add_generation_prompt,
        enable_thinking=enable_thinking,
        keep_thinking=keep_thinking,
    )
    trained, literal, at = [], [], 0
    for piece in pieces:
        span = (at, at := at + len(piece.text))
        if piece.turn in turns and piece.part in trained_parts:
            trained.append(span)
        if literal_roles:
            literal += _literal(tokenizer, piece, span, messages, literal_roles)
    text = "".join(piece.text for piece in pieces)
    ids, starts = tokenizer.encode_spans(text, literal=literal)
    return ids, inside(starts, trained)


def _literal(
    tokenizer: Tokenizer,
    piece: RenderedPiece,
    span: tuple[int, int],
    messages: Sequence[Mapping],
    literal_roles: Collection[str],
) -> list[tuple[int, int]]:
    """The parts of a piece of the text in which control tokens are text; span: its place."""
    role = messages[piece.turn].get("role")
    if piece.part == "tools" or (piece.part == "content" and role in literal_roles):
        return [span]
    if role == "assistant" and piece.part in ("think", "content", "calls"):
        matches = tokenizer.control_pattern.finditer(piece.text)
        return [(span[0] + match.start(), span[0] + match.end()) for match in matches]
    return []


def _trained_parts(parts: Collection[str], empty_think: str) -> set[str]:
    unknown = [part for part in parts if part not in PARTS]
    if unknown or isinstance(parts, str):
        raise ValueError(f"parts {parts!r}: choose from {PARTS}")
    if empty_think not in EMPTY_THINK_USES:
        raise ValueError(f"empty_think {empty_think!r}: choose from {EMPTY_THINK_USES}")
    as_target = empty_think == "target" and "think" in parts
    return {*parts, "empty_think"} if as_target else set(parts)


def _turns(messages: Sequence[Mapping], train_on: str | Collection[int]) -> set[int]:
    answers = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
    if train_on == "all":
        return set(answers)
    if train_on == "last":
        return set(answers[-1:])
    if train_on == "loop":
        query = chat_render.last_query(messages)
        return {i for i in answers if i > query}
    if isinstance(train_on, str):
        raise ValueError(f"train_on {train_on!r}: choose from {TURNS}, or give message indices")
    wrong = [i for i in train_on if i not in answers]
    if wrong:
        raise ValueError(f"train_on {wrong}: not assistant messages, which are {answers}")
    return set(train_on)


def inside(starts: list[int], spans: list[tuple[int, int]]) -> list[int]:
    """1 for each start in one of the spans; both ascend, an empty span holds nothing."""
    mask, k = [], 0
    for start in starts:
        while k < len(spans) and spans[k][1] <= start:
            k += 1
        mask.append(int(k < len(spans) and spans[k][0] <= start))
    return mask
