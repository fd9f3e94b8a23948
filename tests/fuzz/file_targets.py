"""Files that are damaged: models, tokenizers, corpora, problems, checkpoints. Readers name them."""

import base64
import gzip
import json
import shutil

import damage
import numpy as np
import toy
from bounds import Target
from etils import epath
from safetensors.numpy import save

from qwen3.config import OptimConfig, digest
from qwen3.curate import files as curated
from qwen3.curate import stored_logits
from qwen3.data import corpora
from qwen3.data.jsonl import parse_row, read_rows, write_rows
from qwen3.data.rows import TokenSequence
from qwen3.data.sources import open_source
from qwen3.data.tokenizer import Tokenizer
from qwen3.data.unpacked import Unpacked, optional
from qwen3.model import hf, hf_config, hf_folder, hf_generation, tensor_file
from qwen3.rewards import coding_files, ifeval, maths
from qwen3.stages import conversations
from qwen3.train import cut_back, manifest, optim, restoring
from qwen3.train.checkpoint import CheckpointError
from qwen3.train.state import create
from qwen3.train.workdir import Workdir
from qwen3.train.writing import WorkdirError
from qwen3.workflows import own_problems

CHARTER = (ValueError, OSError)
ARRAYS = (*CHARTER, CheckpointError)
TEXTS = ["the cat and the hat, the bat; one two three 1234\n" * 3]


def damaged_file(folder, name, data, damaged=damage.damaged):
    """make(rng) for one file that is damaged anew each time."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)

    def make(rng):
        path.write_bytes(damaged(data, rng))
        return path

    return make


# --- models --------------------------------------------------------------------------------------


def safetensors(folder):
    tensors = {f"t{i}": np.full((2, i + 1), i, np.float32) for i in range(4)}
    data = save({**tensors, "half": np.ones(3, np.float16)}, metadata={"format": "pt"})
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]

    def change(data, rng):
        if rng.random() < 0.5:
            return damage.damaged(data, rng)
        text = damage.bent_text(header, rng)
        length = len(text) if rng.random() < 0.8 else rng.choice(damage.HUGE) % 2**64
        return length.to_bytes(8, "little") + text + body

    def call(path):
        for tensor in tensor_file.read_header(path).values():
            tensor.map().tobytes()

    return damaged_file(folder, "x.safetensors", data, change), call


def index(folder):
    shards = {f"model-0000{i}-of-00002.safetensors": {f"t{i}": np.ones(3)} for i in (1, 2)}
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    for file, tensors in shards.items():
        (folder / file).write_bytes(save({k: v.astype(np.float32) for k, v in tensors.items()}))
    tree = {"metadata": {"total_size": 24}, "weight_map": weight_map}

    def change(data, rng):
        return damage.bent_text(tree, rng) if rng.random() < 0.6 else damage.damaged(data, rng)

    def call(path):
        for tensor in hf_folder.tensors(path.parent).values():
            assert folder.resolve() in tensor.path.resolve().parents, "a path leads out"

    return damaged_file(folder, hf_folder.INDEX, json.dumps(tree).encode(), change), call


CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 384,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 64,
    "rope_theta": 1e6,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "rope_parameters": None,
    "tie_word_embeddings": True,
    "dual_chunk_attention_config": {"chunk_size": 32, "local_size": 16},
    "torch_dtype": "float32",
    "layer_types": ["full_attention", "full_attention"],
    "initializer_range": 0.02,
}
MIXTURE = {
    **{"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 8},
    **{"num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True},
    **{"decoder_sparse_step": 1, "mlp_only_layers": [], "router_aux_loss_coef": 0.001},
}


def config(folder):
    """A config of any sizes beside tensors of others: refused before anything is allocated."""
    tensors = {"model.norm.weight": np.ones(32, np.float32)}
    (folder / hf_folder.SINGLE).write_bytes(save(tensors))

    def change(data, rng):
        tree = CONFIG | MIXTURE if rng.random() < 0.4 else CONFIG
        return damage.bent_text(tree, rng)

    def call(path):
        described = hf_config.from_hf(hf_folder.read_json(path))
        try:
            hf.load_params(path.parent, described)
        except ValueError:
            return  # two of its tensors are not there
        raise AssertionError("a model of one tensor was loaded")

    return damaged_file(folder, "config.json", b"", change), call


def generation_config(folder):
    tree = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "do_sample": True, "min_p": 0.1}
    tree |= {"eos_token_id": [151645, 151643], "repetition_penalty": 1.05}
    (folder / "config.json").write_text(json.dumps(CONFIG | {"eos_token_id": 151645}))

    def call(path):
        stored = hf_generation.read(path.parent)
        hf_generation.sampling(stored)
        hf_generation.stop_ids(path.parent)
        hf_generation.warn_of_others(path.parent, stored)

    make = damaged_file(
        folder, "generation_config.json", b"", lambda _, r: damage.bent_text(tree, r)
    )
    return make, call


def tokenizer(folder):
    whole, tried = folder / "whole", folder / "tried"
    Tokenizer.train(TEXTS, 290).save(whole)
    (whole / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    vocab = json.loads((whole / "tokenizer.json").read_text())["model"]
    (whole / "vocab.json").write_text(json.dumps(vocab["vocab"]))
    (whole / "merges.txt").write_text("\n".join(map(" ".join, vocab["merges"])))
    (whole / "added_tokens.json").write_text("{}")
    originals = {path.name: path.read_bytes() for path in whole.iterdir()}
    trees = {n: json.loads(data) for n, data in originals.items() if n.endswith(".json")}

    def make(rng):
        shutil.rmtree(tried, ignore_errors=True)
        tried.mkdir()
        name = rng.choice([*originals, "tokenizer.json", "tokenizer_config.json"])
        for other, data in originals.items():
            if other != "tokenizer.json" or name not in ("vocab.json", "merges.txt"):
                (tried / other).write_bytes(data)
        if name in trees and rng.random() < 0.7:
            (tried / name).write_bytes(damage.bent_text(trees[name], rng))
        else:
            (tried / name).write_bytes(damage.damaged(originals[name], rng))
        return tried

    def call(path):
        loaded = Tokenizer.load(path)
        loaded.decode(loaded.encode("the cat <think> é"))
        assert loaded.token_bytes

    return make, call


def rank_file(folder):
    tokens = [bytes([i]) for i in range(256)] + [b"th", b"the", b" c"]
    lines = (f"{base64.b64encode(token).decode()} {i}" for i, token in enumerate(tokens))
    data = "\n".join(lines).encode()
    make = damaged_file(folder, "r.tiktoken", data)
    return make, lambda path: Tokenizer.from_ranks(path, expected=None)


# --- rows ----------------------------------------------------------------------------------------

ROWS = [
    {"text": f"document {i} é 锁", "language": "en", "quality": i / 7, "domain": None}
    for i in range(12)
]


def each_way(path):
    """A file of rows in every way that it is read: strictly, with what is broken left out, as a
    source by index, and as one that is unpacked."""
    skipped, fault = [], None
    for options in ({}, {"skipped": skipped}):
        try:
            for _ in read_rows(path, fields=("text",), **options):
                pass
        except CHARTER as error:
            assert str(path) in str(error), f"{error} names no file"
            fault = error
    source = open_source(path, skip_broken=True)
    for _ in source:
        pass
    assert all(str(path) in message for message in source.skipped + skipped)
    if fault is not None:
        raise fault


def rows_file(name):
    def open_target(folder):
        path = folder / name
        write_rows(path, ROWS)
        plain = b"\n".join(json.dumps(row, ensure_ascii=False).encode() for row in ROWS)
        packed = {
            ".gz": lambda data: gzip.compress(data, mtime=0),
            ".zst": lambda data: optional("zstandard").ZstdCompressor().compress(data),
            ".jsonl": bytes,
        }.get(path.suffix)

        def change(data, rng):
            if packed is None or rng.random() < 0.5:
                return damage.damaged(data, rng)
            if rng.random() < 0.5:
                return packed(damage.damaged(plain, rng))
            return packed(b"\n".join(damage.bent_text(row, rng) for row in ROWS[:4]))

        return damaged_file(folder, name, path.read_bytes(), change), each_way

    return open_target


def json_list(folder):
    """One JSON list of rows."""

    def change(data, rng):
        return damage.bent_text(ROWS, rng) if rng.random() < 0.5 else damage.damaged(data, rng)

    return damaged_file(folder, "a.json", json.dumps(ROWS, indent=1).encode(), change), each_way


def one_row(folder):
    """A line of JSON from anywhere."""
    return lambda rng: damage.bent_text(ROWS[0], rng), lambda data: parse_row(data, str(folder))


def text_file(folder):
    def change(data, rng):
        return damage.damaged("\n\n".join(TEXTS * 20).encode(), rng)

    def call(path):
        for unit in ("file", "line", "paragraph"):
            source = open_source(path, unit=unit, skip_broken=True)
            for document in source:
                document.content.encode()
        Unpacked(str(path)).close()

    return damaged_file(folder, "a.txt", b"", change), call


def corpus(folder):
    whole, tried = folder / "whole", folder / "tried"
    source = folder / "a.jsonl"
    write_rows(source, ROWS)
    corpora.prepare(open_source(source), Tokenizer.train(TEXTS, 290), whole)
    names = [path.name for path in whole.iterdir()]
    tree = json.loads((whole / corpora.MANIFEST).read_text())

    def make(rng):
        shutil.rmtree(tried, ignore_errors=True)
        shutil.copytree(whole, tried)
        name = rng.choice([*names, corpora.MANIFEST, corpora.MANIFEST])
        bent = name == corpora.MANIFEST and rng.random() < 0.7
        data = (
            damage.bent_text(tree, rng)
            if bent
            else damage.damaged((whole / name).read_bytes(), rng)
        )
        (tried / name).write_bytes(data)
        return tried

    def call(path):
        opened = corpora.Corpus(path, verify=True)
        for i in range(len(opened)):
            assert opened[i].content.size

    return make, call


# --- problems and conversations ------------------------------------------------------------------

CONVERSATION = {
    "messages": [
        {"role": "system", "content": "Be brief. /think"},
        {"role": "user", "content": "What is the weather in Oslo?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "Look it up.",
            "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
        },
        {"role": "tool", "content": '{"sky": "blue"}'},
        {"role": "assistant", "content": "Blue.", "reasoning_content": "It says blue."},
    ],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
            },
        }
    ],
}
IFEVAL = {
    **{"key": 1, "prompt": "Write.", "instruction_id_list": ["keywords:frequency"]},
    "kwargs": [{"keyword": "a", "relation": "at least", "frequency": 2}],
}
MBPP = {
    "text": "Add.",
    "code": "def f(a): return a",
    "task_id": 1,
    "test_list": ["assert f(1) == 1"],
}
PROBLEM = {"task": "maths", "answer": {"gold": "3"}, "mode": "any", "tools": None}
PROBLEM |= {"messages": [{"role": "user", "content": "1 + 2?"}], "difficulty": 0.5}


def readers_of_problems(tokenizer):
    """name -> (a good row, reader of a file)."""
    return {
        "gsm8k": ({"question": "1 + 2?", "answer": "So it is 3.\n#### 3"}, maths.read_gsm8k),
        "math": (
            {"problem": "1 + 2?", "solution": "\\boxed{3}", "level": "Level 2", "answer": "3"},
            maths.read_math,
        ),
        "mbpp": (MBPP, coding_files.read_mbpp),
        "ifeval": (IFEVAL, ifeval.read_ifeval),
        "problems": (PROBLEM, curated.read_problems),
        "own problems": (PROBLEM, lambda path: own_problems.read(path, "maths")),
        "conversations": (CONVERSATION, lambda path: conversations.read(path, tokenizer)),
        "ids": (
            {"ids": [1, 2, 3, 4], "mask": [0, 1, 1, 1], "think": True},
            lambda path: conversations.read(path, tokenizer),
        ),
    }


def problem_files(folder):
    """Files whose rows hold what a family's or a stage's problems are made of."""
    readers = readers_of_problems(Tokenizer.train(TEXTS, 290))

    def make(rng):
        name = rng.choice(list(readers))
        row, _ = readers[name]
        path = folder / f"{name.replace(' ', '-')}.jsonl"
        path.write_bytes(damage.bent_text(row, rng) + b"\n" + json.dumps(row).encode())
        return name, path

    def call(case):
        name, path = case
        readers[name][1](path)

    return make, call


def teacher_logits(folder):
    sequence = TokenSequence(
        np.arange(6, dtype=np.int32),
        np.ones(6, np.float32),
        0,
        {
            "teacher_ids": np.zeros((6, 2), np.int32),
            "teacher_logits": np.zeros((6, 2), np.float32),
            "teacher_normaliser": np.zeros(6, np.float32),
        },
    )
    stored_logits.write(folder / "whole.npz", [sequence], teacher="t", temperature=1.0)
    make = damaged_file(folder, "t.npz", (folder / "whole.npz").read_bytes())
    return make, lambda path: stored_logits.read(path, temperature=1.0, vocab=10)


# --- checkpoints and workdirs --------------------------------------------------------------------

OPTIM = OptimConfig(peak=0.1, warmup=2, schedule="constant")
SETTINGS = {"optim": {"peak": 0.1}, "seed": 3}


def new_workdir(path):
    """A workdir with one checkpoint; returns the checkpoint's folder."""
    tx = optim.build(OPTIM, optim.schedule(OPTIM, 20))
    with Workdir(path, SETTINGS) as work:
        state = create(toy.init(0), tx)
        work.checkpoints.save(state.replace(step=state.step + 2), {"stage": 1})
        work.metrics.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 6)))
    return path / "checkpoints" / "2"


def checkpoint(folder):
    """Any file of a checkpoint damaged: it is never taken for a whole one."""
    whole, tried = new_workdir(folder / "run"), folder / "tried"
    names = [str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()]
    listed = [name for name in names if name not in manifest.UNLISTED]
    tree = json.loads((whole / manifest.MANIFEST).read_text())
    shutil.copytree(whole, tried)

    def make(rng):
        """(name, whether its bytes are others than before)"""
        for name in names:  # what the case before has damaged
            (tried / name).write_bytes((whole / name).read_bytes())
        name = rng.choice([*listed, *[manifest.MANIFEST] * len(listed)])
        before = (whole / name).read_bytes()
        bent = name == manifest.MANIFEST and rng.random() < 0.6
        data = damage.bent_text(tree, rng) if bent else damage.damaged(before, rng)
        if bent and rng.random() < 0.5:
            data = signed(data)
        (tried / name).write_bytes(data)
        return name, data != before

    def call(case):
        name, changed = case
        trouble = manifest.problem(tried)
        assert trouble is None or isinstance(trouble, str)
        if trouble is None and name != manifest.MANIFEST:
            assert not changed, f"damage of {name} went unnoticed"
        if trouble is not None:
            raise ValueError(trouble)

    return make, call


def signed(data):
    """A hostile manifest with a digest that fits."""
    try:
        tree = json.loads(data)
        stated = tree.pop("digest")
        tree["digest"] = digest(tree) if isinstance(stated, str) else stated
        return json.dumps(tree).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return data


def arrays_of_checkpoint(folder):
    """A checkpoint whose arrays or whose metadata are damaged, behind a manifest that fits."""
    whole, tried = new_workdir(folder / "run"), folder / "tried"
    names = [str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()]

    def make(rng):
        shutil.rmtree(tried, ignore_errors=True)
        shutil.copytree(whole, tried)
        name = rng.choice([name for name in names if name != manifest.MANIFEST])
        (tried / name).write_bytes(damage.damaged((whole / name).read_bytes(), rng))
        about = manifest.read_manifest(whole)
        about = {k: v for k, v in about.items() if k not in ("files", "digest")}
        manifest.write_manifest(epath.Path(tried), about)
        return tried

    return make, restoring.load_params


def workdir_files(folder):
    """The small files of a workdir, torn or hostile: the run goes on or is refused in one line."""
    run = folder / "run"
    new_workdir(run)
    names = ["config.json", "resume.json", "metrics.jsonl", "record.jsonl"]
    (run / "record.jsonl").write_text('{"time": "now"}\n')
    originals = {name: (run / name).read_bytes() for name in names}

    def make(rng):
        for name, data in originals.items():
            (run / name).write_bytes(data)
        name = rng.choice(names)
        lines = originals[name].splitlines() if name.endswith("l") else [originals[name]]
        if rng.random() < 0.6:
            lines[-1] = damage.bent_text(json.loads(lines[-1]), rng)
            data = b"\n".join(lines)
        else:
            data = damage.damaged(originals[name], rng)
        (run / name).write_bytes(data)
        return run

    def call(path):
        with Workdir(path, SETTINGS):
            cut_back.cut_back(path / "metrics.jsonl", 2)

    return make, call


FILES = [
    Target("safetensors", safetensors, CHARTER, 5_000, 250, named=True),
    Target("index", index, CHARTER, 5_000, 200, named=True),
    Target("config.json", config, CHARTER, 5_000, 200),
    Target("generation_config.json", generation_config, CHARTER, 5_000, 200, named=True),
    Target("tokenizer", tokenizer, CHARTER, 5_000, 60, named=True),
    Target("ranks", rank_file, CHARTER, 5_000, 200, named=True),
    Target("JSON lines", rows_file("a.jsonl"), CHARTER, 5_000, 100, named=True),
    Target("JSON list", json_list, CHARTER, 5_000, 100, named=True),
    Target("gzip", rows_file("a.jsonl.gz"), CHARTER, 5_000, 100, named=True),
    Target("zstd", rows_file("a.jsonl.zst"), CHARTER, 5_000, 100, named=True),
    Target("Parquet", rows_file("a.parquet"), CHARTER, 5_000, 100, named=True),
    Target("a line", one_row, CHARTER, 5_000, 200, named=True),
    Target("text", text_file, CHARTER, 5_000, 60, named=True),
    Target("corpus", corpus, CHARTER, 5_000, 60, named=True),
    Target("problems", problem_files, CHARTER, 8_000, 200, named=True),
    Target("stored logits", teacher_logits, CHARTER, 5_000, 100, named=True),
    Target("checkpoint", checkpoint, CHARTER, 5_000, 60),
    Target("workdir", workdir_files, (*CHARTER, WorkdirError), 5_000, 20, named=True),
    Target("arrays of a checkpoint", arrays_of_checkpoint, ARRAYS, 500, 0, seconds=5.0, named=True),
]
