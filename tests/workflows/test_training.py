"""A researcher's first hour: own model, own problems, own reward, in a few lines."""

import argparse
import inspect
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rich

import qwen3
from qwen3 import cli, rewards
from qwen3.train import model_source
from qwen3.workflows import own_problems, own_rewards, run_settings, training, training_cli

QUIET = ("log.display=False", "mesh.data=1", "mesh.fsdp=-1", "optim.schedule=constant")
REWARD = '''
def reward(answer, reference):
    """The more often the wanted letter stands in the answer, up to four times, the better."""
    return min(answer.count(reference), 4) / 4
'''


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "problems.jsonl"
    rows = [{"q": f"write the letter e, number {i}", "gold": "e"} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def reward(tmp_path):
    path = tmp_path / "my_reward.py"
    path.write_text(REWARD)
    return str(path)


def train(checkpoint, problems, reward, workdir, **changes):
    options = dict(
        reward=reward,
        columns={"prompt": "q", "reference": "gold"},
        workdir=workdir,
        steps=6,
        held_out=0.2,
        evaluate_every=3,
        prompts=8,
        samples=8,
        max_tokens=8,
        learning_rate=2e-2,
        settings=QUIET,
    )
    return qwen3.rl(checkpoint, problems, **{**options, **changes})


def test_rl_on_own_problems_and_reward_raises_the_held_out_score(
    checkpoint, problems, reward, tmp_path, one_device
):
    run = train(checkpoint, problems, reward, tmp_path / "run")
    assert [record["step"] for record in run.scores] == [0, 3, 6]
    assert all(record["n"] == 4 for record in run.scores)
    assert run.scores[-1]["score"] > run.scores[0]["score"] + 0.2
    logged = {row["step"]: row.get("eval/score") for row in run.metrics}
    assert logged == {0: run.scores[0]["score"], 1: None, 2: None, 4: None, 5: None} | {
        record["step"]: pytest.approx(record["score"], rel=1e-6) for record in run.scores
    }
    sample = run.samples()[0]
    assert {"prompt", "answer", "score", "reference"} <= set(sample)
    assert {"prompt", "answer", "score"} <= set(run.samples(5, training=True)[0])
    assert sample["prompt"].startswith("write the letter e") and sample["reference"] == "e"
    trained = (tmp_path / "run/problems/train.jsonl").read_text()
    assert sample["prompt"] not in trained
    exported = run.export(tmp_path / "exported")
    again = qwen3.load(exported).logits([[5, 6, 7]])
    np.testing.assert_array_equal(run.load().logits([[5, 6, 7]]), again)


def test_more_steps_can_be_asked_of_a_finished_run(
    checkpoint, problems, reward, tmp_path, one_device
):
    """Also beyond ten, where a new run would have a longer warm-up, and measured more rarely."""
    quick = dict(prompts=2, samples=4, max_tokens=4, learning_rate=1e-2, thinking=False)
    train(checkpoint, problems, reward, tmp_path / "run", steps=2, **quick)
    run = train(checkpoint, problems, reward, tmp_path / "run", steps=10, evaluate_every=8, **quick)
    assert [record["step"] for record in run.scores] == [0, 2, 8, 10]
    assert [row["step"] for row in run.metrics] == list(range(11))
    # The problems that are held out are asked in the mode that is trained.
    assert all(row["prompt"].endswith(" /no_think") for row in run.samples())
    assert all("/no_think<|im_end|>" in row["prompt"] for row in run.samples(training=True))


def test_a_pretraining_goes_on_for_more_steps_and_not_on_other_texts(tmp_path, one_device):
    text = tmp_path / "text.txt"
    text.write_text("the tree is here now " * 400)
    options = dict(workdir=tmp_path / "new", batch=1, length=32, vocab=284, settings=QUIET[:1])
    qwen3.pretrain("tiny", text, steps=1, **options)
    run = qwen3.pretrain("tiny", text, steps=12, **options)
    assert run.metrics[-1]["step"] == 10 and run.load().config.name == "tiny"
    with pytest.raises(ValueError, match="seed: 0 -> 1"):
        qwen3.pretrain("tiny", text, steps=12, seed=1, **options)


def test_the_best_checkpoint_on_held_out_problems_stays_and_is_exported(
    checkpoint, problems, tmp_path, one_device
):
    def spoilt(answer):
        """Worth less and less: the first measured checkpoint is the best."""
        asked.append(answer)
        return len(answer) / 100 - len(asked)

    asked = []
    run = train(
        checkpoint,
        problems,
        spoilt,
        tmp_path / "run",
        steps=5,
        evaluate_every=1,
        prompts=2,
        samples=4,
        max_tokens=4,
        export=tmp_path / "out",
        best=True,
    )
    kept = sorted(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir())
    assert kept == [1, 3, 4, 5] and run.best.name == "1"
    first = run.load(best=True).logits([[5, 6, 7]])
    np.testing.assert_array_equal(qwen3.load(tmp_path / "out").logits([[5, 6, 7]]), first)
    assert not np.array_equal(first, run.load().logits([[5, 6, 7]]))
    assert cli.main(["export", str(run.workdir), str(tmp_path / "again"), "--best"]) == 0
    np.testing.assert_array_equal(qwen3.load(tmp_path / "again").logits([[5, 6, 7]]), first)


@pytest.mark.parametrize("name", ["sft", "rl", "distill", "pretrain"])
def test_the_command_and_the_function_take_the_same_arguments(name):
    subparsers = argparse.ArgumentParser().add_subparsers()
    parser = getattr(training_cli, f"add_{name}")(subparsers)
    flags = {action.dest: action for action in parser._actions if action.dest != "help"}
    parameters = inspect.signature(getattr(training, name)).parameters
    assert set(flags) == set(parameters)
    needed = {key for key, value in parameters.items() if value.default is inspect.Parameter.empty}
    assert {dest for dest, action in flags.items() if action.required} == needed
    required = [action for action in parser._actions if action.required]
    words = [[*action.option_strings[:1], "words"] for action in required]
    given = training_cli.arguments(parser.parse_args(sum(words, [])))
    assert set(given) == needed, "a flag that is not given leaves the function's own default"


def template_folder(checkpoint, folder, template):
    """The checkpoint with this chat template; None for none."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return model_source.find(folder)


TURNS = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "mode", "words"),
    [
        ("built in", "no_think", None),
        (TURNS + "{% if enable_thinking is false %}-{% endif %}", "no_think", None),
        (TURNS, "any", "thinking=False is not followed: .* has a chat template without thinking"),
        (None, "any", "thinking=False is not followed: .* has no chat template"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*chat template")
def test_flags_stand_behind_prompts_where_the_template_knows_modes(
    checkpoint, tmp_path, caplog, template, mode, words
):
    if template == "built in":
        source = model_source.find(checkpoint)
    else:
        source = template_folder(checkpoint, tmp_path / "model", template)
    assert run_settings.prompt_mode(source, None) == "any" and not caplog.records
    assert run_settings.prompt_mode(source, False) == mode
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (words is not None) and all(re.search(words, line) for line in lines)


def test_adapters_are_merged_where_the_run_is_loaded_and_exported(
    checkpoint, problems, reward, tmp_path, one_device
):
    run = train(checkpoint, problems, reward, tmp_path / "run", steps=2, lora=2)
    base, trained = qwen3.load(checkpoint), run.load()
    np.testing.assert_array_equal(trained.params["embed"], base.params["embed"])
    before, after = (model.params["layers"]["mlp"]["up"] for model in (base, trained))
    assert not np.array_equal(before, after)
    assert np.linalg.matrix_rank(np.asarray(after - before)[0], tol=1e-5) <= 2
    assert model_source.lora_of(json.loads((tmp_path / "run/config.json").read_text())).rank == 2
    (folder,) = [p for p in sorted((tmp_path / "run/checkpoints").iterdir())][-1:]
    np.testing.assert_array_equal(
        qwen3.load(folder).logits([[5, 6, 7]]), trained.logits([[5, 6, 7]])
    )
    adapter = tmp_path / "adapter"
    assert cli.main(["export", str(run.workdir), str(adapter), "--adapter"]) == 0
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        p.name for p in adapter.iterdir()
    }
    np.testing.assert_allclose(
        qwen3.load(adapter).logits([[5, 6, 7]]), trained.logits([[5, 6, 7]]), atol=1e-5
    )
    assert cli.main(["export", str(checkpoint), str(tmp_path / "none"), "--adapter"]) == 2


def test_the_command_trains_prints_scores_and_exports(
    checkpoint, tmp_path, one_device, capsys, problems, reward
):
    arguments = ["rl", str(checkpoint), "--problems", str(problems), "--reward", reward]
    arguments += ["--column", "prompt=q", "--column", "reference=gold", "--steps", "1"]
    arguments += ["--workdir", str(tmp_path / "run"), "--max-tokens", "4", "--prompts", "2"]
    arguments += ["--samples", "8", "--export", str(tmp_path / "out"), "--learning-rate", "1e-2"]
    assert cli.main([*arguments, "--set", "log.display=False"]) == 0
    out = capsys.readouterr().out
    assert "step 0: score" in out and "held-out problems" in out
    assert f"qwen3 chat {tmp_path / 'out'}" in out
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "again")]) == 0
    first, second = (tmp_path / name / "model.safetensors" for name in ("out", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_sft_distill_and_pretrain_take_the_same_names(checkpoint, tmp_path, one_device, capsys):
    rows = [
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "here"}]}
    ] * 4
    tuned = qwen3.sft(
        checkpoint,
        rows,
        evaluate=[{"prompt": f"hi {i}", "answer": "here"} for i in range(2)],
        reward=lambda answer, reference: float(reference in answer),
        evaluate_every=1,
        max_tokens=4,
        workdir=tmp_path / "sft",
        steps=2,
        batch=1,
        length=64,
        settings=QUIET,
    )
    assert [(row["step"], row["eval/score"]) for row in tuned.metrics] == [
        (record["step"], pytest.approx(record["score"])) for record in tuned.scores
    ]
    assert [record["step"] for record in tuned.scores] == [0, 1, 2]
    pulled = qwen3.distill(
        checkpoint,
        tuned.workdir,
        [{"prompt": f"letter {i}"} for i in range(4)],
        workdir=tmp_path / "distill",
        steps=1,
        prompts=2,
        samples=1,
        max_tokens=4,
        settings=QUIET,
    )
    text = tmp_path / "text.txt"
    text.write_text("the tree is here now " * 400)
    new = qwen3.pretrain(
        "tiny",
        text,
        workdir=tmp_path / "new",
        steps=1,
        batch=1,
        length=32,
        vocab=284,
        settings=("log.display=False", "log.every=1"),
    )
    rich.print(pulled.table(2, training=True))
    assert "letter" in capsys.readouterr().out
    for run in (tuned, pulled, new):
        assert run.plot()._repr_png_().startswith(b"\x89PNG")
        assert np.isfinite(run.load().logits([[1, 2, 3]])).all()
    assert new.load().tokenizer.decode(new.load().tokenizer.encode("the tree")) == "the tree"


# --- problems -------------------------------------------------------------------------------------


@pytest.fixture
def mine():
    """The name of a reward of the user's own, as a run registers it before it reads problems."""

    def mine(answer, reference):
        return float(answer == reference)

    return own_rewards.register(mine)


def test_usual_column_names_are_understood_and_others_are_mapped(mine):
    rows = [{"question": "2+2?", "answer": "4"}, {"prompt": "3+3?", "reference": "6"}]
    first, second = own_problems.read(rows, mine)
    assert first.messages == [{"role": "user", "content": "2+2?"}]
    assert first.answer["reference"] == "4" and second.answer["reference"] == "6"
    (mapped,) = own_problems.read(
        [{"frage": "2+2?", "loesung": 4, "sys": "Be brief."}],
        mine,
        columns={"prompt": "frage", "reference": "loesung", "system": "sys"},
    )
    assert [message["role"] for message in mapped.messages] == ["system", "user"]
    assert mapped.answer["reference"] == 4 and mapped.answer["row"]["loesung"] == 4


def test_maths_problems_take_the_number_after_the_hashes_and_ask_for_a_box():
    (problem,) = own_problems.read([{"question": "2+2?", "answer": "2+2=4\n#### 4"}], "maths")
    assert rewards.get("maths").score(problem, "<think>\n\n</think>\n\n\\boxed{4}") == 1.0
    assert "boxed" in problem.messages[-1]["content"]


@pytest.mark.parametrize(
    ("row", "columns", "words"),
    [
        (
            {"query_text": "a", "answer": "b"},
            {},
            "row 0: no prompt; understood are prompt, question",
        ),
        ({"prompt": "a"}, {"reference": "gold"}, "row 0: no column 'gold'"),
        ({"prompt": "a"}, {"promt": "a"}, "columns .'promt'.: choose from prompt, reference"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, {}, "row 0: "),
        ({"prompt": ""}, {}, "row 0"),
    ],
)
def test_rows_that_are_no_problem_are_named(row, columns, words, mine):
    with pytest.raises(ValueError, match=words):
        own_problems.read([row], mine, columns=columns)


def test_the_same_prompt_is_always_on_the_same_side(mine):
    rows = [{"prompt": f"p{i % 30}", "reference": "x"} for i in range(60)]
    train, held = own_problems.held_out(own_problems.read(rows, mine), 0.1)
    texts = [{problem.messages[0]["content"] for problem in side} for side in (train, held)]
    assert not texts[0] & texts[1] and len(train) + len(held) == 60 and len(texts[1]) >= 3
    again, _ = own_problems.held_out(own_problems.read(rows[::-1], mine), 0.1)
    assert {problem.messages[0]["content"] for problem in again} == texts[0]
    with pytest.raises(ValueError, match="held_out 1.5"):
        own_problems.held_out(train, 1.5)


def test_what_would_be_downloaded_is_said_without_a_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="hf download --repo-type dataset openai/gsm8k"):
        own_problems.read("openai/gsm8k:train", "maths")
    with pytest.raises(FileNotFoundError, match="hf download Qwen/Qwen3-0.6B"):
        qwen3.load("Qwen/Qwen3-0.6B")
    with pytest.raises(ValueError, match="no such file"):
        own_problems.read("nowhere.txt", "maths")


# --- rewards --------------------------------------------------------------------------------------


def test_a_reward_gets_what_its_parameters_name(tmp_path):
    seen = {}

    def mine(prompt, answer, thought, reference, row):
        seen.update(prompt=prompt, answer=answer, thought=thought, reference=reference, row=row)
        return -1.5

    task = rewards.TASKS[own_rewards.register(mine)]
    (problem,) = own_problems.read([{"prompt": "p", "answer": "r", "more": 1}], "mine")
    assert task.score(problem, "<think>\nt\n</think>\n\na<|im_end|>") == -1.5
    assert seen == {
        "prompt": "p",
        "answer": "a",
        "thought": "t",
        "reference": "r",
        "row": {"prompt": "p", "answer": "r", "more": 1},
    }
    assert task.score(problem, "<think>\nnever closed") == -1.5
    assert seen["answer"] == "" and seen["thought"] == "never closed"


@pytest.mark.parametrize(
    ("source", "spec", "words"),
    [
        ("def score(answer): return 1", "f.py", "no function 'reward'; it has .'score'."),
        ("def reward(response): return 1", "f.py", "takes response; a reward may take prompt"),
        ("import nothing_there", "f.py", "ModuleNotFoundError"),
        ("def reward(answer): return 1", "absent.py", "there is no such file"),
        ("", "no_such_task", "task 'no_such_task' does not exist"),
    ],
)
def test_rewards_that_cannot_be_used_are_refused_with_the_choices(
    tmp_path, monkeypatch, source, spec, words
):
    monkeypatch.chdir(tmp_path)
    Path("f.py").write_text(source)
    with pytest.raises(ValueError, match=words):
        own_rewards.register(spec)


def test_a_reward_that_is_no_number_is_named():
    def broken(answer):
        return float("nan")

    task = rewards.TASKS[own_rewards.register(broken)]
    (problem,) = own_problems.read([{"prompt": "p"}], "broken")
    with pytest.raises(ValueError, match="reward broken gave nan for the answer 'x'"):
        task.score(problem, "x")
