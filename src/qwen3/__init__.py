"""The whole Qwen3 recipe in JAX: `load` and `create` give a model, `rl`, `sft`, ... train one.

They are imported at first use: `import qwen3` alone takes no time and starts no device.
"""

import importlib
from typing import Any

__version__ = "0.1.0"  # the one place of the version; setup.cfg reads it

_LAZY = {
    "LanguageModel": "qwen3.infer.language_model",
    "create": "qwen3.infer.language_model",
    "load": "qwen3.infer.language_model",
    "pretrain": "qwen3.workflows.training",
    "sft": "qwen3.workflows.training",
    "reward_model": "qwen3.workflows.training",
    "rl": "qwen3.workflows.training",
    "distill": "qwen3.workflows.training",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'qwen3' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
