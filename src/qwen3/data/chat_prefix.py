"""Continuing a conversation whose tokens are already there: RL rollouts, prefix cache, training.

The template drops the thinking of earlier turns and the empty block of all but the last answer, and
tool results share one turn. So the rendering of k messages is often no prefix of the rendering of
k + 1 (`prefix_breaks` says where). Three ways out:

- `render_suffix`: only the text behind a sampled turn, so a rollout keeps the tokens it sampled;
- `render(keep_thinking=True)`: every assistant turn keeps its block, filled or empty;
- `training_views`: the official rendering, cut into samples in which every answer is seen as it
  is at inference.
"""

from collections.abc import Mapping, Sequence

from qwen3.data.chat_render import generation_prompt, pieces, render


def render_suffix(messages: Sequence[Mapping], *, enable_thinking: bool | None = None) -> str:
    """The text behind a sampled assistant turn that ended in <|im_end|>: its line break, the new
    user, tool or later system messages, and the next generation prompt.

    Equal to the tail of render(everything, keep_thinking=True, add_generation_prompt=True), and
    independent of what came before. ValueError for an assistant message: those are sampled.
    """
    for i, message in enumerate(messages):
        if message.get("role") == "assistant":
            raise ValueError(f"message {i} is an assistant's; its tokens are sampled, not rendered")
    # Behind any assistant turn, so that none of them counts as the first of a conversation.
    behind = [piece for piece in pieces([{"role": "assistant"}, *messages]) if piece.turn > 0]
    return "\n" + "".join(piece.text for piece in behind) + generation_prompt(enable_thinking)


def prefix_breaks(
    messages: Sequence[Mapping],
    *,
    tools: Sequence[Mapping] | None = None,
    keep_thinking: bool = False,
) -> list[int]:
    """The k in 1..len-1 for which render(messages[:k]) is no prefix of render(messages[:k + 1]).

    With keep_thinking only k inside a run of tool results remain, whose shared turn is still open.
    """
    texts = [
        render(messages[:k], tools=tools, keep_thinking=keep_thinking)
        for k in range(1, len(messages) + 1)
    ]
    return [k for k in range(1, len(texts)) if not texts[k].startswith(texts[k - 1])]


def training_views(
    messages: Sequence[Mapping], *, tools: Sequence[Mapping] | None = None
) -> list[tuple[int, tuple[int, ...]]]:
    """The samples [(k, answers)] of a dialogue: train on the assistant messages `answers` in the
    rendering of messages[:k].

    Every assistant message is in exactly one view, and is there just as in the rendering that ends
    with it. Neighbours share a view as long as one rendering is a prefix of the next; a chat of n
    thinking turns needs n views, a tool loop with reasoning only one.
    """
    views: list[tuple[str, int, tuple[int, ...]]] = []
    for i, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        text = render(messages[: i + 1], tools=tools)
        earlier: tuple[int, ...] = ()
        if views and text.startswith(views[-1][0]):
            earlier = views.pop()[2]
        views.append((text, i + 1, (*earlier, i)))
    return [(k, answers) for _, k, answers in views]
