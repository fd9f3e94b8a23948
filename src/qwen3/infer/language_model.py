"""A model for notebooks: load or create it, look at its logits, chat with it, save it.

model = qwen3.load("Qwen/Qwen3-0.6B")     # or a folder
model = qwen3.create("tiny", seed=0)
model.logits([[1, 2, 3]])                 # [1, 3, vocab]
model.generate("Once upon a time", max_tokens=50)[0].text
model.chat([{"role": "user", "content": "2 + 2?"}], thinking_budget=1024).content
model.save("out")
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from qwen3.data.tokenizer_files import holds_tokenizer
from qwen3.data.tokenizer_settings import names_template
from qwen3.infer import chat_session, thinking_head
from qwen3.infer.auto_budget import AutoBudget, PromptStates
from qwen3.infer.chat_session import ChatAnswer, ChatPiece, ChatStream
from qwen3.infer.compiled import batch_ways
from qwen3.infer.engine import Engine
from qwen3.infer.requests import PRESETS, Request, SamplingParams, check_text
from qwen3.model import hf, hf_folder, hf_generation, sizes, transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig
from qwen3.train import model_source

# The released chat models' generation_config.json: the report's thinking mode (section 4.6).
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}


class LanguageModel:
    """A config, its parameters on a mesh, and how to run them.

    `params` may be replaced, e.g. by trained ones. folder: where the model was loaded from; its
    tokenizer and generation settings are read from there and are saved along with it.
    generation_folder: whose generation_config.json says how to sample; None: that of `folder`.
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
        generation_folder: Path | None = None,
    ):
        self.config, self.params, self.mesh, self.folder = config, params, mesh, folder
        self.execution = execution or Execution.for_mesh(mesh)
        self._own_tokenizer = tokenizer
        self._generation_folder = generation_folder or folder
        self._engine: tuple[dict[str, Any], dict, Engine] | None = None
        if tokenizer is not None:
            tokenizer.check_fits(config.vocab)

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer given at construction, else the folder's, else None."""
        if self._own_tokenizer is not None:
            return self._own_tokenizer
        if self.folder is None or not holds_tokenizer(self.folder):
            return None
        tokenizer = Tokenizer.load(self.folder)
        tokenizer.check_fits(self.config.vocab)
        return tokenizer

    @cached_property
    def sampling(self) -> SamplingParams | None:
        """How the folder says to sample, in its generation_config.json; None where it does not.

        Warns in one line of settings there that are not followed. Raises ValueError naming the file
        and the field for a value out of its range.
        """
        folder = self._generation_folder
        settings = {} if folder is None else hf_generation.read(folder)
        fields = hf_generation.sampling(settings)
        if folder is not None:
            hf_generation.warn_of_others(folder, settings)
        try:
            return SamplingParams(**fields) if fields else None
        except (ValueError, TypeError) as error:
            raise ValueError(f"{folder}/{hf_generation.FILE}: {error}") from None

    def chat_sampling(
        self, sampling: SamplingParams | str | Mapping | None = None
    ) -> SamplingParams | str | Mapping | None:
        """What chats sample with: what is given, else the folder's settings.

        None, for the report's preset of the mode, where the folder says nothing, or no more than
        that preset for thinking, as the first release does: without thinking the other one serves.
        """
        if sampling is None:
            return None if self.sampling == PRESETS["thinking"] else self.sampling
        return self.sampling or sampling if sampling == "model" else sampling

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
        """Logits of inputs padded to the rows and length that the mesh divides, and cut again."""
        rows, length = inputs["tokens"].shape
        padding = ((0, -rows % batch_ways(self.mesh)), (0, -length % self.mesh.shape["context"]))
        if any(after for _, after in padding):
            inputs.setdefault("segment_ids", np.ones((rows, length), np.int32))
            inputs = {name: np.pad(value, padding) for name, value in inputs.items()}
        inputs = jax.device_put(inputs, meshes.batch_sharding(self.mesh))
        with jax.set_mesh(self.mesh):
            return _logits(self.params, self.config, self.execution, **inputs)[:rows, :length]

    def auto_budget(self, prompt: Sequence[int], quality: float) -> int:
        """Tokens of thinking for a prompt, by the head beside the model; quality: the dial, 0 to 1.

        Raises ValueError for a model without a head (`qwen3 budget` trains it), or with that of
        other weights.
        """
        return self._auto_budget(self.params, prompt, quality)

    @cached_property
    def _auto_budget(self) -> AutoBudget:
        if self.folder is None:
            raise ValueError(
                f"thinking_budget auto needs an exported folder with {thinking_head.FILE} in it"
            )
        states = PromptStates(self.config, self.mesh, self.execution)
        return AutoBudget(thinking_head.load(self.folder), states)

    def engine(self, **options: Any) -> Engine:
        """An Engine of this model; options: see there. The last engine is kept: asked for again
        with the same options it is returned again, with the parameters that the model has now.
        """
        options = {name: value for name, value in options.items() if value is not None}
        if self._engine is None or self._engine[0] != options:
            execution = self.execution.replace(scan=False, remat="none")
            settings: dict[str, Any] = {"execution": execution, "block": 8} | options
            engine = Engine(
                self.config, self.params, mesh=self.mesh, tokenizer=self.tokenizer, **settings
            )
            self._engine = (options, self.params, engine)
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

        sampling: SamplingParams, a preset by name, or fields. "model" is what the folder says, and
        where it says nothing the model's own distribution. options: further fields of
        `infer.requests.Request`; a `budget` may be "auto" or "auto:Q" (`infer.thinking_head`).
        stream: pieces of text instead, of one prompt only. Raises ValueError for what cannot be
        served, and for a model without a tokenizer.
        """
        engine, tokenizer = self._text_engine(slots=slots)
        if sampling == "model" and self.sampling is not None:
            sampling = self.sampling
        settings = chat_session.as_sampling(sampling)
        quality = thinking_head.quality_of(options.get("budget"))
        requests = []
        for prompt in [prompts] if isinstance(prompts, str) else prompts:
            if isinstance(prompt, str):
                check_text("prompt", prompt)
                prompt = tokenizer.encode(prompt)
            if quality is not None:
                options["budget"] = self.auto_budget(prompt, quality)
            try:
                request = Request(prompt, sampling=settings, seed=seed, **options)
            except TypeError as error:
                raise ValueError(f"unknown option of generate: {error}") from None
            requests += request.samples(samples)
        if stream:
            if len(requests) != 1:
                raise ValueError(f"stream is for one answer, not {len(requests)}")
            return iter(ChatStream(engine, requests[0]))
        completions = engine.generate(requests)
        return [chat_session.answer(tokenizer, completion) for completion in completions]

    def chat(
        self,
        messages: Sequence[Mapping],
        *,
        thinking: bool | None = None,
        thinking_budget: int | str | None = None,
        tools: Sequence[Mapping] | None = None,
        sampling: SamplingParams | str | Mapping | None = None,
        stream: bool = False,
        seed: int | None = None,
        **options: Any,
    ) -> ChatAnswer | Iterator[ChatPiece]:
        """The next assistant turn; see `chat_session.chat_request` for modes and budget.

        sampling: as for `generate`; None: what the folder says, else the report's preset of the
        mode. stream: pieces of thinking and content as they come.
        """
        engine, tokenizer = self._text_engine()
        try:
            request = chat_session.chat_request(
                tokenizer,
                messages,
                thinking=thinking,
                thinking_budget=thinking_budget,
                choose_budget=self.auto_budget,
                tools=tools,
                sampling=self.chat_sampling(sampling),
                seed=seed,
                **options,
            )
        except TypeError as error:
            raise ValueError(f"unknown option of chat: {error}") from None
        if stream:
            return iter(ChatStream(engine, request))
        (completion,) = engine.generate([request])
        return chat_session.answer(tokenizer, completion)

    def _text_engine(self, **options: Any) -> tuple[Engine, Tokenizer]:
        if self.tokenizer is None:
            raise ValueError(f"{self.config.name} has no tokenizer to read and write text with")
        return self.engine(**options), self.tokenizer

    def save(self, folder: str | Path, *, dtype: Any = None, shard_bytes: int = 5 * 10**9) -> None:
        """Export in the Hugging Face layout, see `model.hf.save`.

        The tokenizer goes along with the chat template that it is used with: a folder that came
        without one gets that of Qwen3's first release, which its conversations are written in.
        """
        with tempfile.TemporaryDirectory() as written:
            source = self.folder
            if self._rewrites_tokenizer():
                assert self.tokenizer is not None
                self.tokenizer.save(written)
                source = Path(written)
            paths = [source / name for name in hf_folder.TOKENIZER_FILES] if source else []
            hf.save(
                folder,
                self.config,
                self.params,
                dtype=dtype,
                shard_bytes=shard_bytes,
                generation=self._generation(),
                files=tuple(path for path in paths if path.is_file()),
            )

    def _rewrites_tokenizer(self) -> bool:
        """Whether the folder's own files are not those of the tokenizer that is used."""
        if self._own_tokenizer is not None or self.folder is None or self.tokenizer is None:
            return self._own_tokenizer is not None
        return not names_template(self.folder, self.tokenizer.chat_template)

    def _generation(self) -> dict[str, Any] | None:
        """generation_config.json: the folder's own; with another tokenizer than the folder's its
        ids, and the sampling of the folder or of the report; None without a tokenizer."""
        folder = self._generation_folder
        stored = {} if folder is None else hf_generation.read(folder)
        if stored and folder == self.folder and self._own_tokenizer is None:
            return stored
        if self.tokenizer is None:
            return None
        pad, stops = self.tokenizer.pad, list(self.tokenizer.stop_ids)
        fields = hf_generation.sampling(stored)
        sampling = {"do_sample": fields.get("temperature") != 0, **fields} if fields else SAMPLING
        return sampling | {"bos_token_id": pad, "pad_token_id": pad, "eos_token_id": stops}


@partial(jax.jit, static_argnums=(1, 2))
def _logits(
    params: Any,
    config: ModelConfig,
    execution: Execution,
    tokens: jax.Array,
    positions: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
) -> jax.Array:
    output = transformer.forward(
        params, config, tokens, positions, segment_ids, execution=execution
    )
    return transformer.logits(output)


def _integers(name: str, value: Any) -> np.ndarray:
    value = np.asarray(value)
    if not np.issubdtype(value.dtype, np.integer) and value.size:
        raise ValueError(f"{name} are {value.dtype}; wanted are integers")
    return value.astype(np.int32)


def load(
    name: str | Path,
    mesh: Mesh | None = None,
    dtype: Any = None,
    *,
    revision: str | None = None,
    **options: Any,
) -> LanguageModel:
    """A LanguageModel from a Hugging Face folder or Hub name, an adapter's folder, or a run.

    name: see `train.model_source.find`; of a run the newest checkpoint is taken. mesh: None for the
    first device. dtype: of the parameters, None for what is stored. revision: of a Hub repository.
    options: `execution`, `tokenizer` of LanguageModel. Raises FileNotFoundError when neither this
    machine nor the Hub has the model, ValueError naming what in it is not Qwen3 or does not fit.
    """
    source = model_source.find(name, revision=revision)
    mesh = _one_device() if mesh is None else mesh
    params = source.params(mesh, dtype)
    folder = source.folder
    other_tokenizer = source.tokenizer_folder not in ("", str(folder))
    if other_tokenizer and "tokenizer" not in options:
        options["tokenizer"] = Tokenizer.load(source.tokenizer_folder)
    if folder is None and source.tokenizer_folder:
        options.setdefault("generation_folder", Path(source.tokenizer_folder))
    return LanguageModel(source.config, params, mesh=mesh, folder=folder, **options)


def create(
    size: str | ModelConfig,
    seed: int = 0,
    mesh: Mesh | None = None,
    dtype: Any = jnp.float32,
    **options: Any,
) -> LanguageModel:
    """A LanguageModel with fresh parameters, the same on any mesh.

    size: a name of `sizes.SIZES`, or a config. mesh, options: as for `load`. Raises ValueError
    naming the known sizes.
    """
    config = sizes.size(size) if isinstance(size, str) else size
    mesh = _one_device() if mesh is None else mesh
    params = _init(config, mesh, jnp.dtype(dtype))(jax.random.key(seed))
    return LanguageModel(config, params, mesh=mesh, **options)


@lru_cache(maxsize=8)
def _init(config: ModelConfig, mesh: Mesh, dtype: np.dtype) -> Callable[[jax.Array], Any]:
    shardings = meshes.shardings_of(transformer.abstract(config), mesh)
    return jax.jit(partial(transformer.init, config, dtype=dtype), out_shardings=shardings)


def _one_device() -> Mesh:
    return meshes.make_mesh(MeshConfig(), jax.devices()[:1])
