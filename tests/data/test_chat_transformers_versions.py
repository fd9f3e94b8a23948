"""Prompts equal `apply_chat_template` of transformers 4 and 5, in text and in ids.

Slow tests: QWEN3_TRANSFORMERS names Pythons with transformers, as in tests/model; with
QWEN3_TOKENIZERS, folders of tokenizers separated by ":" (a download of the 2507 releases, say),
their own templates are compared too.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from folder_templates import TEMPLATES, dialogue

from qwen3.data.chat_prompt import chat_prompt_ids
from qwen3.data.folder_template import has_switch
from qwen3.data.special_tokens import ADDED_TOKENS
from qwen3.data.tokenizer import Tokenizer

PEER = Path(__file__).parent.parent / "model" / "transformers_peer.py"
PYTHONS = [path for path in os.environ.get("QWEN3_TRANSFORMERS", "").split(os.pathsep) if path]
FOLDERS = [path for path in os.environ.get("QWEN3_TOKENIZERS", "").split(os.pathsep) if path]
TYPED = re.compile("|".join(re.escape(token.text) for token in ADDED_TOKENS))
with_peers = pytest.mark.parametrize("python", PYTHONS or [""], ids=lambda path: path[-30:])


def run_peer(python, *arguments):
    if not python:
        pytest.skip("QWEN3_TRANSFORMERS names no Python with transformers")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [os.path.abspath(python), str(PEER), *map(str, arguments)]
    subprocess.run(command, check=True, env=environment)


def cases(template):
    """[messages, tools, variables] of 200 dialogues, most of them with tools, in every setting of
    the template's switch; then of the same without texts that are typed like tokens."""
    switches = (
        [{}, {"enable_thinking": False}] if template is None or has_switch(template) else [{}]
    )
    drawn = [[*dialogue(seed), switch] for seed in range(200) for switch in switches]
    assert sum(tools is not None for _, tools, _ in drawn) > len(drawn) // 2
    return drawn + json.loads(TYPED.sub("x", json.dumps(drawn, ensure_ascii=False)))


def compare(python, folder, tmp_path):
    """The number of prompts. Those in which nothing is typed like a token have the same ids too."""
    tokenizer = Tokenizer.load(folder)
    drawn = cases(tokenizer.chat_template)
    (tmp_path / "cases.json").write_text(json.dumps(drawn))
    run_peer(python, "render", folder, tmp_path / "cases.json", tmp_path / "prompts.json")
    prompts = json.loads((tmp_path / "prompts.json").read_text())
    for number, (case, (text, ids)) in enumerate(zip(drawn, prompts, strict=True)):
        messages, tools, switch = case
        own = chat_prompt_ids(tokenizer, messages, tools=tools, **switch)
        assert tokenizer.decode(own) == text
        if number >= len(drawn) // 2:
            assert own == ids
    return len(drawn)


@pytest.mark.slow
@with_peers
@pytest.mark.parametrize("name", [*TEMPLATES, "first release"])
def test_prompts_are_those_of_apply_chat_template(python, name, tmp_path):
    """Also behind a save by that version, whose files differ: a .jinja file, other settings."""
    tokenizer = Tokenizer.train(["the user and the assistant said: yes, no\n\n 1 2 3"] * 3, 310)
    tokenizer.chat_template = TEMPLATES.get(name)
    tokenizer.save(tmp_path / "ours")
    run_peer(python, "tokenizer", tmp_path / "ours", tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        count = compare(python, tmp_path / folder, tmp_path)
        print(f"{python}: {name}, saved as {folder}: {count} prompts equal")


@pytest.mark.slow
@with_peers
def test_prompts_of_named_templates_are_those_of_apply_chat_template(python, tmp_path):
    """A default and one for tools, in a list, and in files as that version saves them."""
    Tokenizer.train(["the user and the assistant said: yes, no\n\n 1 2 3"] * 3, 310).save(
        tmp_path / "a"
    )
    path = tmp_path / "a" / "tokenizer_config.json"
    named = {"default": TEMPLATES["instruct"], "tool_use": TEMPLATES["thinking"]}
    listed = [{"name": name, "template": template} for name, template in named.items()]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": listed}))
    run_peer(python, "tokenizer", tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "additional_chat_templates" / "tool_use.jinja").is_file()
    for folder in ("a", "b"):
        print(f"{python}: named, {folder}: {compare(python, tmp_path / folder, tmp_path)} equal")


@pytest.mark.slow
@with_peers
@pytest.mark.parametrize("folder", FOLDERS or [""])
def test_prompts_of_downloaded_tokenizers_are_those_of_apply_chat_template(
    python, folder, tmp_path
):
    if not folder:
        pytest.skip("QWEN3_TOKENIZERS names no folder")
    print(f"{python}: {folder}: {compare(python, folder, tmp_path)} prompts equal")
