"""The whole Qwen3 recipe in JAX. `load` and `create` give a model for notebooks.

They are imported at first use: `import qwen3` alone takes no time and starts no device.
"""

import importlib

_LAZY = {
    "LanguageModel": "qwen3.infer.language_model",
    "create": "qwen3.infer.language_model",
    "load": "qwen3.infer.language_model",
}
__all__ = sorted(_LAZY)


def __getattr__(name):
    if name not in _LAZY:
        raise AttributeError(f"module 'qwen3' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__():
    return sorted([*globals(), *_LAZY])
