"""Six small tasks of lm-eval on documents of ours, and the golden run of them.

    python tests/eval/lm_eval_tasks.py FOLDER tests/golden/lm_eval_hf.json

asks lm-eval's own Hugging Face backend (an environment with torch, transformers and lm-eval) for
the tasks on the model in FOLDER, which `tests/eval/test_harness.py` makes (`write_model`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

WORDS = "one two three four five six seven eight nine ten".split()
CHOICES = {
    "number_after": [
        {"q": f"Which number follows {w}?", "choices": [WORDS[(i + k) % 10] for k in (1, 3, 4)]}
        for i, w in enumerate(WORDS)
    ],
    "yes_or_no": [{"q": f"Is {w} more than five?", "choices": ["yes", "no"]} for w in WORDS],
    "continuation": [
        {"q": f"count: {' '.join(WORDS[: i + 1])} ", "choices": ["and so on", ":::", ""]}
        for i in range(9)
    ],
}
TEXTS = {
    "count_on": ([f"Count on from {w}:" for w in WORDS], ["\n\n"]),
    "question": ([f"Question: what is {w} and {w}?\nAnswer:" for w in WORDS], ["Question", "."]),
    "no_stop": ([f"{w} {w} {w}" for w in WORDS], []),
}


def tasks(folder: Path) -> list[dict]:
    """Their configurations, with documents as files in `folder`."""
    configs = []
    for name, rows in CHOICES.items():
        documents = [{**row, "choices": [c for c in row["choices"] if c]} for row in rows]
        configs.append(
            _task(folder, name, documents)
            | {
                "output_type": "multiple_choice",
                "doc_to_text": "{{q}}",
                "doc_to_choice": "{{choices}}",
                "doc_to_target": 0,
                "metric_list": [{"metric": "acc"}],
            }
        )
    for name, (prompts, until) in TEXTS.items():
        configs.append(
            _task(folder, name, [{"q": prompt} for prompt in prompts])
            | {
                "output_type": "generate_until",
                "doc_to_text": "{{q}}",
                "doc_to_target": "one",
                "generation_kwargs": {"until": until, "do_sample": False, "max_gen_toks": 12},
                "metric_list": [{"metric": "exact_match"}],
            }
        )
    return configs


def _task(folder: Path, name: str, documents: list[dict]) -> dict:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(folder)},
        "test_split": "test",
    }


def answers(results: dict) -> dict[str, list]:
    """{task: [what the model said of each document]} of an evaluation with `log_samples`."""
    return {
        name: [sample["filtered_resps"] for sample in sorted(rows, key=lambda row: row["doc_id"])]
        for name, rows in results["samples"].items()
    }


def main(folder: str, golden: str) -> None:
    import tempfile

    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=folder, device="cpu", dtype="float64", batch_size=4)
    with tempfile.TemporaryDirectory() as data, torch.no_grad():
        results = lm_eval.simple_evaluate(
            model=lm, tasks=tasks(Path(data)), log_samples=True, bootstrap_iters=0
        )
    Path(golden).write_text(json.dumps(answers(results), indent=0) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
