"""A model for notebooks: load or create it, look at its logits, save it.

model = qwen3.load("Qwen/Qwen3-0.6B")     # or a folder
model = qwen3.create("tiny", seed=0)
model.logits([[1, 2, 3]])                 # [1, 3, vocab]
model.generate("Once upon a time", max_tokens=50)[0].text
model.chat([{"role": "user", "content": "2 + 2?"}], thinking_budget=1024).content
model.save("out")
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from qwen3 import mesh as meshes
from qwen3.config import MeshConfig
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import chat_session
from qwen3.infer.chat_session import ChatAnswer, ChatPiece, ChatStream
from qwen3.infer.engine import Engine
from qwen3.infer.requests import Request, SamplingParams
from qwen3.model import hf, hf_config, hf_folder, sizes, transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig

# What the released chat models sample with in thinking mode (RECIPE 9).
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}


class LanguageModel:
    """A config, its parameters on a mesh, and how to run them.

    `params` may be replaced, e.g. by trained ones. folder: where the model came from; its
    tokenizer and generation settings are read from there and go along when it is saved.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: dict,
        *,
        mesh: Mesh,
        execution: Execution | None = None,
        tokenizer: Tokenizer | None = None,
        folder: Path | None = None,
    ):
        self.config, self.params, self.mesh, self.folder = config, params, mesh, folder
        self.execution = execution or Execution.for_mesh(mesh)
        self._given = tokenizer
        self._engine: tuple[dict[str, Any], dict, Engine] | None = None
        if tokenizer is not None:
            tokenizer.check_fits(config.vocab)

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The one given, else the folder's, else None."""
        if self._given is not None:
            return self._given
        if self.folder is None or not (self.folder / "tokenizer.json").is_file():
            return None
        tokenizer = Tokenizer.load(self.folder)
        tokenizer.check_fits(self.config.vocab)
        return tokenizer

    def logits(self, tokens: Any, positions: Any = None, segment_ids: Any = None) -> jax.Array:
        """fp32 [B, T, V] for integer tokens [B, T].

        segment_ids [B, T]: 0 is padding, on either side; documents 1, 2, ... do not see each
        other. positions [B, T]: default 0, 1, ... anew in each document. Raises ValueError for
        other shapes and for ids that the vocabulary does not have.
        """
        tokens = _integers("tokens", tokens)
        if tokens.ndim != 2:
            raise ValueError(f"tokens have shape {tokens.shape}; wanted is [batch, length]")
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.config.vocab:
            raise ValueError(
                f"token ids run from {tokens.min()} to {tokens.max()}; "
                f"the vocabulary is 0 to {self.config.vocab - 1}"
            )
        inputs = {"tokens": tokens}
        for name, value in (("positions", positions), ("segment_ids", segment_ids)):
            if value is not None:
                inputs[name] = _integers(name, value)
                if inputs[name].shape != tokens.shape:
                    raise ValueError(
                        f"{name} have shape {inputs[name].shape}, tokens {tokens.shape}"
                    )
        return self._padded_logits(inputs)

    def _padded_logits(self, inputs: dict[str, np.ndarray]) -> jax.Array:
        """Rows and length are filled up to what the mesh divides, and cut again."""
        rows, length = inputs["tokens"].shape
        ways = math.prod(self.mesh.shape[axis] for axis in meshes.BATCH_AXES)
        fill = ((0, -rows % ways), (0, -length % self.mesh.shape["context"]))
        if any(after for _, after in fill):
            inputs.setdefault("segment_ids", np.ones((rows, length), np.int32))
            inputs = {name: np.pad(value, fill) for name, value in inputs.items()}
        inputs = jax.device_put(inputs, meshes.batch_sharding(self.mesh))
        with jax.set_mesh(self.mesh):
            return _logits(self.params, self.config, self.execution, **inputs)[:rows, :length]

    def engine(self, **options: Any) -> Engine:
        """An Engine of this model; see there. The last one is kept: asked for again with the same
        options it is given again, with the parameters that the model has now.
        """
        options = {name: value for name, value in options.items() if value is not None}
        if self._engine is None or self._engine[0] != options:
            execution = self.execution.replace(scan=False, remat="none")
            made = Engine(
                self.config,
                self.params,
                mesh=self.mesh,
                tokenizer=self.tokenizer,
                **{"execution": execution, "block": 8} | options,
            )
            self._engine = (options, self.params, made)
        options, params, engine = self._engine
        if params is not self.params:
            engine.update(self.params, engine.version + 1)
            self._engine = (options, self.params, engine)
        return engine

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        *,
        sampling: SamplingParams | str | Mapping = "model",
        samples: int = 1,
        stream: bool = False,
        slots: int | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> list[ChatAnswer] | Iterator[ChatPiece]:
        """Continuations of texts or lists of token ids: `samples` of each, together in order.

        sampling: a Sampling, a preset by name, or fields. options: further fields of
        `infer.requests.Request`. stream: pieces of text instead, of one prompt only. Raises
        ValueError for what cannot be served, and for a model without a tokenizer.
        """
        engine = self._chat_engine(slots=slots)
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        asked = []
        for text in texts:
            ids = engine.tokenizer.encode(text) if isinstance(text, str) else text
            settings = chat_session.as_sampling(sampling)
            try:
                request = Request(ids, sampling=settings, seed=seed, **options)
            except TypeError as error:
                raise ValueError(f"unknown option of generate: {error}") from None
            asked += request.samples(samples)
        if stream:
            if len(asked) != 1:
                raise ValueError(f"stream is for one answer, not {len(asked)}")
            return iter(ChatStream(engine, asked[0]))
        return [chat_session.answer(engine.tokenizer, each) for each in engine.generate(asked)]

    def chat(
        self,
        messages: Sequence[Mapping],
        *,
        thinking: bool | None = None,
        thinking_budget: int | None = None,
        tools: Sequence[Mapping] | None = None,
        sampling: SamplingParams | str | Mapping | None = None,
        stream: bool = False,
        seed: int | None = None,
        **options: Any,
    ) -> ChatAnswer | Iterator[ChatPiece]:
        """The next assistant turn; see `chat_session.chat_request` for modes, budget and presets.

        stream: pieces of thinking and content as they come.
        """
        engine = self._chat_engine()
        try:
            request = chat_session.chat_request(
                engine.tokenizer,
                messages,
                thinking=thinking,
                thinking_budget=thinking_budget,
                tools=tools,
                sampling=sampling,
                seed=seed,
                **options,
            )
        except TypeError as error:
            raise ValueError(f"unknown option of chat: {error}") from None
        answering = ChatStream(engine, request)
        if stream:
            return iter(answering)
        for _ in answering:
            pass
        return answering.answer

    def _chat_engine(self, **options: Any) -> Engine:
        if self.tokenizer is None:
            raise ValueError(f"{self.config.name} has no tokenizer to read and write text with")
        return self.engine(**options)

    def save(self, folder: str | Path, *, dtype: Any = None, shard_bytes: int = 5 * 10**9) -> None:
        """Export in the Hugging Face layout, see `model.hf.save`."""
        with tempfile.TemporaryDirectory() as written:
            source = self.folder
            if self._given is not None:
                self._given.save(written)
                source = Path(written)
            found = [source / name for name in hf_folder.TOKENIZER_FILES] if source else []
            hf.save(
                folder,
                self.config,
                self.params,
                dtype=dtype,
                shard_bytes=shard_bytes,
                generation=self._generation(),
                files=tuple(path for path in found if path.is_file()),
            )

    def _generation(self) -> dict[str, Any] | None:
        """generation_config.json: the folder's own, else made from the tokenizer's ids."""
        stored = self.folder and self.folder / "generation_config.json"
        if stored and stored.is_file() and self._given is None:
            return hf_folder.read_json(stored)
        if self.tokenizer is None:
            return None
        pad, stops = self.tokenizer.pad, list(self.tokenizer.stop_ids)
        return SAMPLING | {"bos_token_id": pad, "pad_token_id": pad, "eos_token_id": stops}


@partial(jax.jit, static_argnums=(1, 2))
def _logits(params, config, execution, tokens, positions=None, segment_ids=None):
    output = transformer.forward(
        params, config, tokens, positions, segment_ids, execution=execution
    )
    return transformer.logits(output)


def _integers(name: str, value: Any) -> np.ndarray:
    value = np.asarray(value)
    if not np.issubdtype(value.dtype, np.integer) and value.size:
        raise ValueError(f"{name} are {value.dtype}; wanted are integers")
    return value.astype(np.int32)


def load(name: str | Path, mesh: Mesh | None = None, dtype: Any = None, **options: Any):
    """A LanguageModel from a Hugging Face folder or Hub name.

    mesh: None for the first device. dtype: of the parameters, None for what is stored.
    options: `execution`, `tokenizer` of LanguageModel. Raises FileNotFoundError when there is no
    such model here or on the Hub, ValueError naming what in it is not Qwen3 or does not fit.
    """
    folder = hf_folder.find(name)
    label = folder.name if Path(name).expanduser().is_dir() else str(name)
    config = hf_config.from_hf(hf_folder.read_json(folder / "config.json"), label)
    mesh = _one_device() if mesh is None else mesh
    params = hf.load_params(folder, config, mesh, dtype)
    return LanguageModel(config, params, mesh=mesh, folder=folder, **options)


def create(
    size: str | ModelConfig,
    seed: int = 0,
    mesh: Mesh | None = None,
    dtype: Any = jnp.float32,
    **options: Any,
) -> LanguageModel:
    """A LanguageModel with fresh parameters, the same on any mesh. size: of SIZES, or a config.

    mesh, options: as of `load`. Raises ValueError naming the sizes there are.
    """
    config = sizes.size(size) if isinstance(size, str) else size
    mesh = _one_device() if mesh is None else mesh
    params = _init(config, mesh, jnp.dtype(dtype))(jax.random.key(seed))
    return LanguageModel(config, params, mesh=mesh, **options)


@lru_cache(maxsize=8)
def _init(config: ModelConfig, mesh: Mesh, dtype: np.dtype):
    shardings = meshes.shardings_of(transformer.abstract(config), mesh)
    return jax.jit(partial(transformer.init, config, dtype=dtype), out_shardings=shardings)


def _one_device() -> Mesh:
    return meshes.make_mesh(MeshConfig(), jax.devices()[:1])
