"""The model in float64 and plain loops, written from the report (section 2) and papers alone."""

import numpy as np


def rms_norm(x, gain, eps):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * gain


def angles(config):
    """Radians a position of each channel pair, and the factor on cos and sin."""
    width = config.head_dim
    turns = np.array([config.rope_theta ** (-2 * i / width) for i in range(width // 2)])
    yarn = config.rope_scaling
    if yarn is None:
        return turns, 1.0

    def channel(count):  # the channel that turns `count` times over the original length
        length = yarn.original_length / (2 * np.pi * count)
        return width * np.log(length) / (2 * np.log(config.rope_theta))

    low = max(np.floor(channel(yarn.beta_fast)), 0)
    high = min(np.ceil(channel(yarn.beta_slow)), width - 1)
    slow = np.clip((np.arange(width // 2) - low) / max(high - low, 1e-3), 0, 1)
    return turns * (1 - slow) + turns / yarn.factor * slow, 0.1 * np.log(yarn.factor) + 1


def rotate(x, position, turns, factor):
    """[heads, H] of one token at its position."""
    a, b = x[:, : len(turns)], x[:, len(turns) :]
    cos, sin = factor * np.cos(position * turns), factor * np.sin(position * turns)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)


def attend(config, weights, x, positions, segments):
    """[T, D]; a query sees the keys of its own segment up to itself."""
    turns, factor = angles(config)
    project = lambda name: np.einsum("td,dnh->tnh", x, weights[name])  # noqa: E731
    q, k, v = project("query"), project("key"), project("value")
    q = rms_norm(q, weights["query_norm"], config.norm_eps)
    k = rms_norm(k, weights["key_norm"], config.norm_eps)
    q = np.stack([rotate(q[t], p, turns, factor) for t, p in enumerate(positions)])
    k = np.stack([rotate(k[t], p, turns, factor) for t, p in enumerate(positions)])
    group, out = config.heads // config.kv_heads, np.zeros_like(q)
    for t in range(len(x)):
        seen = [s for s in range(t + 1) if segments[s] == segments[t]]
        for n in range(config.heads):
            scores = k[seen, n // group] @ q[t, n] / np.sqrt(config.head_dim)
            weight = np.exp(scores - scores.max())
            out[t, n] = weight / weight.sum() @ v[seen, n // group]
    return np.einsum("tnh,nhd->td", out, weights["out"])


def swiglu(x, gate, up, down):
    hidden = x @ gate
    return (hidden / (1 + np.exp(-hidden)) * (x @ up)) @ down


def experts(config, weights, x):
    """([T, D], probabilities [T, E], chosen [T, A]); chosen weights sum to 1."""
    logits = x @ weights["router"]
    probs = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probs /= probs.sum(axis=-1, keepdims=True)
    chosen, out = np.argsort(-probs, axis=-1)[:, : config.active_experts], np.zeros_like(x)
    for t, ids in enumerate(chosen):
        for e in ids:
            share = probs[t, e] / probs[t, ids].sum()
            matrices = (weights[name][e] for name in ("gate", "up", "down"))
            out[t] += share * swiglu(x[t], *matrices)
    return out, probs, chosen


def forward(config, params, tokens, positions, segments):
    """(logits [T, V], router probabilities [L, T, E], chosen [L, T, A]) of one row of tokens."""
    x, routers = params["embed"][tokens], []
    for layer in range(config.layers):
        weights = pick(params["layers"], layer)
        h = rms_norm(x, weights["attention_norm"], config.norm_eps)
        x = x + attend(config, weights["attention"], h, positions, segments)
        h = rms_norm(x, weights["mlp_norm"], config.norm_eps)
        if config.experts:
            h, *router = experts(config, weights["moe"], h)
            routers.append(router)
        else:
            h = swiglu(h, *(weights["mlp"][name] for name in ("gate", "up", "down")))
        x = x + h
    head = params["embed"] if config.tied else params["head"]
    logits = rms_norm(x, params["final_norm"], config.norm_eps) @ head.T
    return logits, *(np.stack(parts) for parts in zip(*routers, strict=True))


def pick(tree, layer):
    if isinstance(tree, dict):
        return {name: pick(branch, layer) for name, branch in tree.items()}
    return tree[layer]
