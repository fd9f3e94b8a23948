"""Other layouts of a checkpoint's tensors, brought to the names and shapes of `hf_names`.

Models saved from inside a wrapper (torch.compile, DDP, FSDP) have its name in every tensor's, base
models lack the "model." in front, older files hold rotary buffers, and transformers 5 can store the
experts of a layer fused into two tensors. transformers and vLLM load all of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from qwen3.model.sizes import ModelConfig
from qwen3.model.tensor_file import StoredTensor

WRAPPERS = {
    *("module", "_forward_module", "_orig_mod", "_fsdp_wrapped_module"),
    "_checkpoint_wrapped_module",
}
HEADS = ("lm_head", "score")  # beside the model, not in it
TOP_LEVEL = ("embed_tokens", "layers", "norm", *HEADS)  # of the model, without "model."
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Computed from the config, so what a file holds of them is not needed.
BUFFERS = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")
_GATE_UP, _DOWN = ".mlp.experts.gate_up_proj", ".mlp.experts.down_proj"


def standard(stored: Mapping[str, StoredTensor], config: ModelConfig) -> dict[str, StoredTensor]:
    """The stored tensors under the names of `hf_names`, buffers left out and experts taken apart.

    A name of no known layout is kept as it is. Raises ValueError for fused experts of another shape
    than the config's, and when two tensors come to have one name.
    """
    tensors: dict[str, StoredTensor] = {}
    sources: dict[str, str] = {}
    for stored_name, tensor in stored.items():
        if stored_name.endswith(BUFFERS):
            continue
        for name, part in _experts(standard_name(stored_name), tensor, config):
            if name in tensors:
                raise ValueError(
                    f"{tensor.path}: {stored_name} and {sources[name]} are both {name}"
                )
            tensors[name], sources[name] = part, stored_name
    if config.tied and EMBEDDING not in tensors and HEAD in tensors:
        # Of two names for one tensor, savers of shared tensors keep the one or the other.
        tensors[EMBEDDING] = tensors.pop(HEAD)
    return tensors


def standard_name(name: str) -> str:
    """The name without wrappers and with exactly one "model." where it belongs."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    while parts and parts[0] == "model":
        parts.pop(0)
    if not parts or parts[0] not in TOP_LEVEL:
        return name
    return ".".join(parts if parts[0] in HEADS else ["model", *parts])


def _experts(
    name: str, tensor: StoredTensor, config: ModelConfig
) -> Iterator[tuple[str, StoredTensor]]:
    """(name, tensor) of each expert's own matrices, or the tensor itself if it is not fused.

    Fused are gate_up_proj [E, 2 F, D], each expert's gate above its up, and down_proj [E, D, F].
    """
    d, f, experts = config.hidden, config.expert_ffn, config.experts
    shapes = {_GATE_UP: (experts, 2 * f, d), _DOWN: (experts, d, f)}
    suffix = next((suffix for suffix in shapes if name.endswith(suffix)), None)
    if suffix is None or not config.moe:
        yield name, tensor
        return
    if tensor.shape != shapes[suffix]:
        raise ValueError(
            f"{tensor.path}: {name} is {list(tensor.shape)}, config.json makes it "
            f"{list(shapes[suffix])}"
        )
    prefix = name.removesuffix(suffix) + ".mlp.experts"
    height = 2 * f if suffix == _GATE_UP else d
    rows = tensor.reshape(experts * height, tensor.shape[2])
    for e in range(experts):
        first = e * height
        if suffix == _DOWN:
            yield f"{prefix}.{e}.down_proj.weight", rows.rows(first, first + d)
        else:
            yield f"{prefix}.{e}.gate_proj.weight", rows.rows(first, first + f)
            yield f"{prefix}.{e}.up_proj.weight", rows.rows(first + f, first + 2 * f)
