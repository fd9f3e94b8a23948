"""The main job: nothing leaks from training to tests, the report says what the numbers say, the
whole recipe runs and goes on after an interruption."""

import argparse
import dataclasses
import errno
import itertools
import json
import os
import re
import subprocess
import sys
import types
from html import escape
from pathlib import Path
from random import Random

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.transforms import Bbox
from rich.console import Console

import qwen3
from qwen3 import cli
from qwen3.config import OptimConfig
from qwen3.data.tokenizer import Tokenizer
from qwen3.model import hf_config
from qwen3.recipe import recipe_cli, run_recipe, seed_run
from qwen3.recipe.budgets import BUDGETS
from qwen3.recipe.report import claims, page, plots
from qwen3.recipe.stage_table import STAGES
from qwen3.recipe.stages import (
    measures,
    mixture_of_experts,
    post_training,
    prepare_data,
    pretraining,
    students,
)
from qwen3.recipe.world import documents, exams, own_input, sft_data, tools
from qwen3.rewards import TASKS
from qwen3.rewards.locks import dialogues, lock, lock_tasks
from qwen3.rewards.task import in_split
from qwen3.stages import sft, suite_evaluation
from qwen3.stages.groups import NothingToLearn
from qwen3.stages.start import parameters
from qwen3.train.preemption import STOPPED

# --- what is in a text, read back without the generator's help -----------------------------------

_OPS = {
    lock.words((kind, place, k), language): (kind, place, k)
    for language in lock.LANGUAGES
    for kind in lock.KINDS
    for place, k in (
        [(p, k) for p in range(3) for k in range(1, 6)] if kind in ("up", "down") else [(0, 0)]
    )
}
_PIECES = re.compile(
    "|".join(sorted(map(re.escape, _OPS), key=len, reverse=True))
    + r"|(?:has a lock at |has |的锁在|有)(?P<start>\d{3})"
    + r"|(?P<fact>\d{3})(?= ?(?:turn|reverse|shift|swap|mirror|[首中末]位|反转|[左右]移|交换|取补))"
)


def locks_in(text):
    """Every (start, operations) that a question, story or fact in the text tells."""
    found = []
    for match in _PIECES.finditer(text):
        if start := match["start"] or match["fact"]:
            found.append((start, []))
        elif found:
            found[-1][1].append(_OPS[match.group()])
    return [lock.Lock("", start, tuple(ops)) for start, ops in found if ops]


def leaks(text):
    """Held-out content in a text: each lock, and the locks of a whole question."""
    body = re.split(r"\n(?:Working|Answer|过程|答案)", text)[0]
    found = locks_in(body)
    return [x for x in found if not in_split(lock.key([x]), "train")] + [
        found
        for _ in range(bool(found and "Where" in text or "停在哪里" in text))
        if not in_split(lock.key(found), "train")
    ]


def test_the_reader_of_locks_sees_what_was_written():
    ann = lock.Lock("", "452", (("down", 0, 5), ("swap_last", 0, 0)))
    bob = lock.Lock("", "614", (("reverse", 0, 0),))
    for language in lock.LANGUAGES:
        names = lock.OWNERS[language]
        named = [dataclasses.replace(x, name=n) for x, n in zip((ann, bob), names, strict=False)]
        assert locks_in(lock_tasks.question(named, language)) == [ann, bob]
        one = dataclasses.replace(ann, name=lock.NAMES[language][0])
        assert locks_in(lock_tasks.question([one], language)) == [ann]
    assert (
        locks_in("604 reverse gives 406. 604反转得406。")
        == [lock.Lock("", "604", (("reverse", 0, 0),))] * 2
    )


def test_a_held_out_problem_in_a_training_text_would_be_seen():
    for problem in exams.locks(20, "final"):
        assert leaks(problem.messages[0]["content"])


@pytest.mark.parametrize("part", documents.PARTS)
def test_pretraining_holds_no_problem_of_the_tests(part):
    texts = [row["text"] for row in documents.documents(part, 300, 7)]
    assert not [found for text in texts for found in leaks(text)]
    if part not in ("wheel", "ledger", "recall"):
        assert sum(len(locks_in(text)) for text in texts) >= 300


def test_post_training_holds_no_problem_of_the_tests():
    run = seed_run.SeedRun(Path("unused"), BUDGETS[60], 7)
    rows = [*sft_data.cold_start(run, 150), *sft_data.direct(run, 150), *sft_data.flags(150, 7)]
    asked = [m["content"] for row in rows for m in row["messages"] if m["role"] == "user"]
    assert len(asked) >= 450
    assert not [found for text in asked for found in leaks(text)]
    calls = {row["messages"][0]["content"] for row in sft_data.calls(200, 7)}
    assert not calls & {
        f"{p.messages[0]['content']} /no_think" for p in exams.tool_requests(200, "final")
    }


def test_seconds_of_a_stage_are_those_of_all_its_starts(tmp_path):
    assert seed_run.Clock(tmp_path).seconds < 1
    rows = [{"step": 5, "seconds": 2.0}, {"step": 10, "seconds": 3.0}]  # every fifth step
    lines = [json.dumps(row) + "\n" for row in rows] + ['{"step": 15, "sec']  # killed there
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    assert seed_run.Clock(tmp_path).seconds == pytest.approx(25, abs=1)
    damaged = b'{"note": "no step"}\n{"step": 7, "seconds": 2.0, "note": "\xff"}\n'
    (tmp_path / "metrics.jsonl").write_bytes(damaged + "".join(lines).encode())
    assert seed_run.Clock(tmp_path).seconds == pytest.approx(25, abs=1)


@pytest.mark.parametrize("trained", [(), (10, 20), (10, 20, 23), (4,)])
def test_rl_that_runs_out_of_prompts_keeps_what_it_has_learnt(trained, tmp_path, monkeypatch):
    def train(run, stage, name, config):
        for step in trained:
            (run.folder(name) / "checkpoints" / str(step)).mkdir(parents=True)
        raise NothingToLearn("20 prompts gave 1 groups")

    monkeypatch.setattr(seed_run.SeedRun, "train", train)
    run = seed_run.SeedRun(tmp_path, BUDGETS[15], 0)
    config = types.SimpleNamespace(init_from=str(tmp_path / "cold_start"), steps=72, save_every=10)
    said = post_training.learn(run, "reasoning_rl", config)
    # Steps 4 and 23 were saved because of a stop signal: without it they would not be there.
    stands = {
        (10, 20): "reasoning_rl",
        (10, 20, 23): "reasoning_rl/checkpoints/20",
    }.get(trained, "cold_start")
    assert run.weights("reasoning_rl") == tmp_path / stands
    ended = "ended at step 20 of 72: 20 p" if 20 in trained else "left out: 20 prompts"
    assert said.startswith(ended)


def test_the_final_set_was_never_seen_while_designing():
    sets = [
        {lock.key(lock_tasks.locks_of(p)) for p in exams.locks(300, which)}
        for which in ("dev", "final")
    ]
    assert len(sets[0]) > 280 and len(sets[1]) > 280
    assert not sets[0] & sets[1]


def test_right_answers_to_all_kinds_of_questions_score_1():
    for problem in (*exams.locks(6, "dev"), *exams.several(6, "dev"), *exams.dialogues(6, "dev")):
        assert TASKS[problem.task].score(problem, TASKS[problem.task].oracle(problem)) == 1.0
    for seed in range(6):
        problem = tools.problem(seed, "heldout")
        assert TASKS["tool_call"].score(problem, TASKS["tool_call"].oracle(problem)) == 1.0


def test_partial_thought_has_partial_value():
    @dataclasses.dataclass
    class Said:
        problem: object
        text: str

    problem = next(p for p in exams.several(20, "dev") if len(lock_tasks.locks_of(p)) == 2)
    first, second = lock_tasks.locks_of(problem)
    language = problem.answer["language"]
    right = [lock.ending(each, language, True) for each in (first, second)]
    assert exams.share_right(Said(problem, f"<think>\n{right[1]}\n</think>\n\n{right[0]}")) == 0.5
    assert exams.share_right(Said(problem, f"<think>\n\n</think>\n\n{' '.join(right)}")) == 1.0


def test_dialogues_end_without_a_flag_half_of_the_time():
    found = [dialogues.dialogue(Random(i), "train") for i in range(400)]
    bare = [p for p in found if "think" not in p.messages[-1]["content"]]
    assert 150 < len(bare) < 250
    assert {p.mode for p in bare} == {"think", "no_think"}


# --- the user's own input --------------------------------------------------------------------


def test_own_problems_are_read_by_their_form_and_one_in_ten_is_held_out(tmp_path):
    school, contest = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    school.write_text(
        "".join(
            json.dumps({"question": f"What is {i} + 1?", "answer": f"One more.\n#### {i + 1}"})
            + "\n"
            for i in range(100)
        )
    )
    contest.write_text(json.dumps({"problem": "Add 1 and 2.", "solution": "It is \\boxed{3}."}))
    run = seed_run.SeedRun(tmp_path, BUDGETS[5], 0, "dev", {"tasks": [str(school), str(contest)]})
    train, held = (own_input.problems(run, fold) for fold in ("train", "heldout"))
    assert len(train) + len(held) == 101 and 3 <= len(held) <= 20
    problem, thinking, answer = next(own_input.answered(run, 1))
    assert problem.mode == "think" and TASKS["maths"].grade(problem, answer) == 1.0
    assert "One more." in thinking or "boxed" in thinking
    texts = [row["text"] for row in own_input.documents(run)]
    assert len(texts) == len(train)
    assert not [p for p in held if any(own_input.text(p) in text for text in texts)]
    other = tmp_path / "c.jsonl"
    other.write_text('{"prompt": "Hello"}\n')
    with pytest.raises(ValueError, match="none of question, problem"):
        own_input.read(str(other))


# --- the report ----------------------------------------------------------------------------------


def estimate(value, half=0.02, n=200):
    return [value, value - half, value + half, n]


def fake_results():
    """Numbers made up for this test, so that some claims hold and some do not."""
    talk = {
        "prompt": "<|im_start|>user\nWhere?",
        "answer": "<think>\nA\n</think>\n\nB",
        "score": 1.0,
        "forced": "",
        "budget": 8,
    }

    def mode(value):
        return {
            "accuracy": estimate(value),
            "multi_step": estimate(value),
            "thinking_tokens": 30.0,
            "transcripts": [talk],
        }

    def measured(think, plain, follow):
        return {
            "think": mode(think),
            "no_think": mode(plain),
            "sampled": mode(think),
            "follow": {"total": estimate(follow)},
            "calls": {"accuracy": estimate(0.9), "transcripts": [talk]},
        }

    def passes(one, most, samples):
        return {
            "pass": {"1": estimate(one), "16": estimate(most)},
            "pass_at_1_t06": estimate(one),
            "per_problem": {"1": [one] * 50, "16": [most] * 50},
            "samples": samples,
            "by_rare": {"without": {"1": one, "16": most}, "with": {"1": 0.02, "16": 0.3}},
            "seconds": samples / 10,
        }

    needles = {"S3, base 1M": 0.9, "S3, base 10k": 0.4, "S3, base 1M + YaRN x4": 0.9}
    swept = {
        "non_thinking": estimate(0.3),
        "transcripts": [talk],
        "budgets": [
            {
                "budget": b,
                "all": estimate(v),
                "cut_share": 1 - v,
                "cut": estimate(0.02) if v < 0.9 else None,
                "cut_non_thinking": estimate(0.3) if v < 0.9 else None,
            }
            for b, v in zip((0, 8, 16, 32, 64), (0.05, 0.2, 0.4, 0.7, 0.95), strict=True)
        ],
    }
    one = {
        "pretrain": {"parameters": 271168},
        "cold_start": measured(0.4, 0.2, 0.5),
        "fusion": measured(0.95, 0.3, 0.9),
        "reasoning_rl": {
            **measured(0.9, 0.2, 0.5),
            "curve": [
                {"step": i, "reward": 0.5, "entropy": 0.2, "length": 30.0, "bonus": 0.01}
                for i in range(8)
            ],
        },
        "general_rl": measured(0.94, 0.3, 0.97),
        "budgets": {"swept": {"one lock": swept}, "unfinished": {0: estimate(0.9)}},
        "needles": {
            "accuracy": {
                k: {"640": estimate(v), "2048": estimate(v / 2)} for k, v in needles.items()
            }
        },
        "student_exam": passes(0.3, 0.8, 0),
        "student_kl": passes(0.6, 0.9, 100),
        "student_rl": passes(0.45, 0.78, 1000),
        "experts": {
            name: {
                "total": 1,
                "active": 1,
                "loss": loss,
                "seconds": 1.0,
                "use": [[0.5]],
                "domains": ["story"],
                "specialisation": 0.2,
                "max_load": 1.0,
                "curve": {"x": [1, 2], "y": [2.0, 1.0]},
                "rl": {"cold": mode(0.1), "after": mode(0.5)},
            }
            for name, loss in (("dense", 1.0), ("global", 0.9), ("micro", 0.95))
        },
        "cold_sizes": {
            "own": 250,
            "others": {
                60: {"cold": estimate(0.1), "rl": estimate(0.2)},
                1000: {"cold": estimate(0.8), "rl": estimate(0.9)},
            },
        },
        "wall": {"cold_start": 3.0},
    }
    return json.loads(json.dumps(one))


FACTS = {
    "command": "python x",
    "minutes": 15,
    "date": "2000-01-01",
    "exam": "final",
    "cores": 2,
    "machine": "x86_64",
    "workers": 2,
    "elapsed": 900.0,
}
EXPECTED = {
    "C1": "shown",
    "C2": "shown",
    "C3": "2 of 3 parts shown",
    "C4": "2 of 3 parts shown",
    "C5": "shown",
    "C6": "shown",
    "C7": "1 of 2 parts shown",
    "C8": "shown",
}


def test_the_report_decides_by_its_rules_and_shows_everything(tmp_path):
    assert page.write(tmp_path, [fake_results()], FACTS) == EXPECTED
    html, text = ((tmp_path / f"report.{end}").read_text() for end in ("html", "md"))
    assert html.count("<svg") == len(EXPECTED)
    for claim in claims.judge([fake_results()]):
        for words in (claim.title, claim.rule, claim.paper, claim.here, *claim.notes):
            assert words in text and escape(words) in html
        assert f"<section id={claim.name}>" in html and f"href='#{claim.name}'" in html
    assert "271,168 parameters" in html and "combination lock" in text
    assert "&lt;think&gt;" in html and "<think>\nA" in text
    assert "the smallest budget is below it" in text
    assert "60.0 [58.0, 62.0]" in text and "2 / 30" in text


def test_a_claim_that_fails_in_one_seed_is_not_shown(tmp_path):
    worse = fake_results()
    worse["student_rl"]["per_problem"]["1"] = [0.7] * 50
    states = page.write(tmp_path, [fake_results(), worse], FACTS)
    assert states["C1"] == "4 of 5 parts shown" and states["C5"] == "shown"
    assert "✗ KL above RL in pass@1" in (tmp_path / "report.md").read_text()


def flatter_entropy(result):
    for number, point in enumerate(result["reasoning_rl"]["curve"]):
        point["entropy"] = 0.2 if number < 4 else 0.17  # .85 of the first quarter


def dearer_distillation(result):
    result["student_kl"]["samples"] = 300  # .3 of RL's


def narrower_gap(result):
    result["fusion"]["no_think"]["multi_step"] = estimate(0.7)  # 25 points below thinking


@pytest.mark.parametrize(
    ("change", "claim", "part"),
    [
        (dearer_distillation, "C1", "at most a fifth of the samples"),
        (narrower_gap, "C2", "thinking ahead by 30 points"),
        (flatter_entropy, "C5", "entropy level"),
    ],
)
def test_a_part_fails_where_its_bound_is_missed(change, claim, part):
    def parts(result):
        judged = {claim.name: claim for claim in claims.judge([result])}
        return judged[claim].parts

    result = fake_results()
    assert parts(result)[part]
    change(result)
    assert not parts(result)[part]


def test_design_numbers_are_marked_as_no_result(tmp_path):
    page.write(tmp_path, [fake_results()], {**FACTS, "exam": "dev"})
    assert "DEVELOPMENT set" in (tmp_path / "report.md").read_text()


COMMITTED = sorted((Path(__file__).parents[2] / "experiments" / "results").glob("*/results.json"))


@pytest.mark.parametrize("stored", COMMITTED, ids=lambda path: path.parent.name)
def test_the_committed_pages_follow_from_the_committed_results(stored, tmp_path):
    assert len(COMMITTED) >= 2
    (tmp_path / "results.json").write_text(stored.read_text())
    assert page.rewrite(tmp_path) == json.loads(stored.read_text())["states"]
    assert (tmp_path / "report.md").read_text() == stored.with_name("report.md").read_text()
    html = (tmp_path / "report.html").read_text()
    assert "name=viewport" in html and "<b>With thinking</b>" in html
    # Nothing is fetched: every address is the name of an XML dialect.
    assert set(re.findall(r"https?://[^'\" )]*", html)) <= {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }
    # Every table is one that wraps or stands in a box that scrolls.
    assert len(re.findall("<table", html)) == len(
        re.findall("<table class=wrap|<div class=scroll><table", html)
    )


class Recorder(RendererAgg):
    """Remembers where text is drawn, line by line."""

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        width, height, descent = self.get_text_width_height_descent(s, prop, ismath)
        corners = (x, y - height + descent, x + width, y + descent)
        if angle == 90:
            corners = (x - height + descent, y - width, x + descent, y)
        self.lines = [*getattr(self, "lines", ()), (s, Bbox.from_extents(*corners))]


def test_text_in_plots_does_not_overlap():
    result = fake_results()
    result["student_control"] = result["student_kl"]
    for claim in claims.judge([result]):
        plot = claim.seeds[0].plot
        with matplotlib.rc_context(plots.STYLE):
            figure = plots.DRAW[plot["kind"]](plot)
            recorder = Recorder(*figure.get_size_inches() * figure.dpi, figure.dpi)
            figure.draw(recorder)
        assert len(recorder.lines) > 5
        for (one, box), (other, other_box) in itertools.combinations(recorder.lines, 2):
            assert not box.overlaps(other_box), f"{claim.name}: {one!r} and {other!r}"


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "7"], "give one of 0, 1, 5, 15, 60"),
        (["--budget", "nan"], "--budget nan: give one of"),
        (["--workers", "0"], "--workers 0: give 1 to 64"),
        (["--seeds", "0"], "give 1 to 9"),
        (["--tasks", "nowhere.jsonl"], "--tasks nowhere.jsonl: there is no such file"),
    ],
)
def test_wrong_numbers_are_refused_with_the_choices(tmp_path, capsys, arguments, words):
    assert cli.main(["recipe", "--workdir", str(tmp_path / "run"), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def old_version(folder):
    """A workdir of version 1, with a stage that is done."""
    (folder / "seed0" / "pretrain").mkdir(parents=True)
    (folder / "seed0" / "pretrain" / "result.json").write_text("{}")
    (folder / "recipe.json").write_text(json.dumps({"plan": {"grpo": 1}, "exam": "final"}))


def other_budget(folder):
    budget = dataclasses.replace(BUDGETS[0], grpo=2)
    settings = {"budget": dataclasses.asdict(budget), "exam": "final", "own": {}}
    seed_run.open_workdir(folder, settings)


def other_files(folder):
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")


def not_a_folder(folder):
    folder.write_text("")


def torn(folder):
    folder.mkdir()
    (folder / "recipe.json").write_text('{"version": 2, "bud')


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (old_version, "version 1 of the recipe, this is version 2: give another folder, or delete"),
        (other_budget, "budget.grpo: 2 -> 1; give another folder, or the settings of that run"),
        (other_files, "holds other files and no recipe.json; give a new or empty folder"),
        (not_a_folder, "File exists; give a folder that can be written"),
        (torn, "recipe.json is damaged; give another folder"),
    ],
)
def test_a_workdir_that_cannot_serve_is_refused_in_one_line_and_left_alone(
    tmp_path, capsys, prepare, words
):
    workdir = tmp_path / "run"
    prepare(workdir)
    before = contents(tmp_path)
    assert cli.main(["recipe", "--workdir", str(workdir), "--budget", "0"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"qwen3 recipe: --workdir {workdir}") and words in said
    assert said.count("\n") == 1 and "Errno" not in said
    assert contents(tmp_path) == before


def test_a_folder_that_cannot_be_written_is_one_line(capsys):
    for workdir in ("/proc/recipe", "/dev/null/recipe"):  # for the superuser too
        assert cli.main(["recipe", "--workdir", workdir, "--budget", "0"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"qwen3 recipe: --workdir {workdir}: ") and said.count("\n") == 1
        assert said.endswith("; give a folder that can be written\n")


def test_two_recipes_do_not_share_a_workdir(tmp_path, capsys):
    settings = {"budget": dataclasses.asdict(BUDGETS[0]), "exam": "final", "own": {}}
    held = seed_run.open_workdir(tmp_path / "run", settings)
    assert cli.main(["recipe", "--workdir", str(tmp_path / "run"), "--budget", "0"]) == 1
    said = capsys.readouterr().err
    assert "is open in this process already" in said and said.count("\n") == 1
    held.close()
    seed_run.open_workdir(tmp_path / "run", settings)


@pytest.mark.parametrize("place", ["page", "results.json"])
def test_a_full_disk_under_the_report_is_one_line_and_the_next_start_mends_it(
    tmp_path, capsys, monkeypatch, place
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_recipe, "run_stages", lambda *_: None)
    monkeypatch.setattr(run_recipe, "results_of", lambda run: fake_results())
    with monkeypatch.context() as broken:
        broken.setattr(*((page, "write") if place == "page" else (os, "fsync")), full)
        words = ["recipe", "--workdir", str(tmp_path / "run"), "--budget", "0"]
        assert cli.main(words) == 1
    said = capsys.readouterr().err
    assert "No space left on device; free space on that disk and start again" in said
    assert said.count("\n") == 1
    assert cli.main(words) == 0 and (tmp_path / "run" / "results.json").exists()


def test_a_start_that_is_killed_at_its_beginning_does_not_block_the_next(tmp_path):
    for name in seed_run.FIRST_FILES:
        (tmp_path / name).write_text("")
    seed_run.open_workdir(tmp_path, {"budget": {"grpo": 1}})
    assert json.loads((tmp_path / "recipe.json").read_text())["budget"] == {"grpo": 1}


def test_a_workdir_serves_again_and_needs_room(tmp_path):
    for _ in range(2):
        seed_run.open_workdir(tmp_path / "a", {"budget": {"grpo": 1}})
    with pytest.raises(OSError, match="MiB are needed; make room, or give"):
        seed_run.open_workdir(tmp_path / "b", {}, needed=1 << 62)
    assert not (tmp_path / "b" / "recipe.json").exists()


def test_the_command_in_the_report_is_the_one_that_was_given():
    given = ["recipe", "--budget", "5", "--exam", "dev", "--corpus", "a b.txt", "c.txt"]
    parser = argparse.ArgumentParser()
    recipe_cli.add_parser(parser.add_subparsers())
    options = parser.parse_args(given)
    own = {"corpus": ["a b.txt", "c.txt"]}
    assert recipe_cli.command_line(options, own) == (
        "qwen3 recipe --workdir runs/recipe --budget 5 --seeds 1 --exam dev "
        "--corpus 'a b.txt' c.txt"
    )


def test_the_last_lines_name_the_page_the_chat_and_a_question(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    console = Console(record=True, width=40, file=open(os.devnull, "w"))
    result = {"export": {"folder": "export/model"}}
    run_recipe.say_what_next(console, tmp_path / "runs" / "x", result)
    _, report, chat, question = console.export_text().splitlines()
    assert report == "The report: runs/x/report.html"
    assert chat.endswith("qwen3 chat runs/x/seed0/export/model")
    assert question.endswith("Where does it end?")
    run_recipe.say_what_next(console, Path("/elsewhere"), {})
    assert console.export_text().strip() == "The report: /elsewhere/report.html"


@pytest.mark.parametrize("layers", [2, 9])
def test_of_a_large_model_only_the_weights_stay(tmp_path, layers):
    run, calls = seed_run.SeedRun(tmp_path, BUDGETS[0], 0), []
    made = qwen3.create(qwen3.create("tiny").config.replace(layers=layers, vocab=64))
    config = sft.Config(made.config, "tokenizer", ("file",), 1, OptimConfig())

    def stage(config, folder):
        calls.append(config.keep.last)
        (Path(folder) / "checkpoints").mkdir(exist_ok=True)
        return made

    for _ in range(2):
        run.train(types.SimpleNamespace(run=stage), "one", config)
    if layers == 2:
        assert calls == [3, 3] and run.weights("one") == tmp_path / "one"
        return
    assert calls == [1] and not (tmp_path / "one" / "checkpoints").exists()
    read = parameters(str(run.weights("one")), made.config, made.mesh)
    np.testing.assert_array_equal(read["embed"], made.params["embed"])


def test_a_large_checkpoint_needs_a_large_disk(tmp_path):
    model = qwen3.create("tiny", seed=0)
    small = seed_run.SeedRun(tmp_path, BUDGETS[0], 0)
    assert small.needed == seed_run.NEEDED and not small.large
    config = hf_config.to_hf(model.config.replace(layers=12, hidden=512), "float32")
    (tmp_path / "config.json").write_text(json.dumps(config))
    given = seed_run.SeedRun(tmp_path, BUDGETS[0], 0, own={"init_from": str(tmp_path)})
    assert given.large and given.needed > seed_run.NEEDED + 20 * 4 * 12 * 3 * 512 * 160


def test_every_budget_has_its_stages_and_shares_of_the_time():
    names = [row.name for row in STAGES]
    for number, row in enumerate(STAGES):
        assert set(row.after) <= set(names[:number]) and row.share > 0
    for minutes, budget in BUDGETS.items():
        assert budget.minutes == minutes and len(budget.budgets) >= 5


@pytest.mark.parametrize("minutes", BUDGETS)
def test_the_stages_accept_the_settings_of_every_budget(tmp_path, monkeypatch, minutes):
    asked = []
    for owner in (post_training.grpo, post_training.sft, students.distill, pretraining.pretrain):
        monkeypatch.setattr(owner, "run", lambda config, folder: asked.append((folder, config)))
    nothing = {"sets": {"story": {"loss": 1.0}}}
    for owner, name, value in (
        (pretraining, "losses", [nothing]),
        (pretraining, "by_length", {}),
        (post_training, "evaluated", {}),
        (post_training, "record", {}),
        (students, "record", {}),
        (students, "measured", {}),
        (mixture_of_experts, "curve", {}),
        (mixture_of_experts, "use", {}),
        (measures, "mode", {"accuracy": 0}),
        (measures, "sweep", {}),
        (measures, "unfinished", {}),
        (post_training, "rejection_sampled", ("think.jsonl", {"kept": 1})),
        (measures, "pretrained", {}),
        (prepare_data, "without_rare", (tmp_path, 0.7)),
        (seed_run.SeedRun, "mesh", None),
        (pretraining, "fresh", ""),
        (seed_run.SeedRun, "engine", None),
        (measures, "ask", []),
        (suite_evaluation.SuiteMeasure, "measure", suite_evaluation.SuiteScores({}, [])),
    ):
        monkeypatch.setattr(owner, name, lambda *_, value=value, **__: value)
    run = seed_run.SeedRun(tmp_path, BUDGETS[minutes], 0)
    texts = [row["text"] for row in documents.documents("worked", 50, 0)]
    Tokenizer.train(texts, 300).save(tmp_path / "tokenizer")
    rows = [row for row in STAGES if row.when(run.budget)]
    made = ("documents", "tokenizer", "corpora", "export")  # no model is trained there
    for row in (row for row in rows if row.name not in made):
        row.run(run)
    assert len(asked) == {0: 21, 1: 11, 5: 5, 15: 21, 60: 23}[minutes]
    folders = [folder for folder, _ in asked]
    assert len(set(folders)) == len(folders)
    # After S3 every model is read with the raised RoPE base (ABF), as it was trained.
    bases = {
        getattr(config.model, "rope_theta", None)
        for _, config in asked
        if not hasattr(config, "stages")
    }
    assert bases == {1e6 if run.long else 1e4}
    starts = {config.init_from for _, config in asked if config.init_from}
    assert starts <= set(folders)  # what a stage starts from, an earlier one wrote


def test_a_student_reads_no_document_with_a_rare_operation(tmp_path):
    run = seed_run.SeedRun(tmp_path, dataclasses.replace(BUDGETS[0], documents=12), 0)
    made = prepare_data.write_documents(run)
    texts = [row["text"] for row in documents.documents("worked", 50, 0)]
    Tokenizer.train(texts, 300).save(tmp_path / "tokenizer")
    folder, left = prepare_data.without_rare(run)
    assert 0.2 < left < 0.95 and set(made) > set(documents.PARTS)
    kept = "".join(path.read_text() for path in (folder / "documents").glob("*.jsonl"))
    everything = (tmp_path / "documents" / "train" / "worked.jsonl").read_text()
    for words in ("swap first pair", "mirror"):
        assert words in everything and words not in kept
    assert kept.count("turn first up") > 10 and "reverse" in kept
    assert {path.name for path in folder.iterdir()} == {*documents.PARTS, "documents"}


# --- the whole of it -----------------------------------------------------------------------------


def nano(*arguments, folder):
    """nano.py in a process of its own, with the one device that a user's machine has."""
    quiet = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    script = Path(__file__).parent / "nano.py"
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        cwd=folder,
        env=quiet,
        capture_output=True,
        text=True,
        timeout=3000,
    )


@pytest.mark.slow
def test_an_interrupted_recipe_goes_on_and_makes_nothing_twice(tmp_path):
    workdir = tmp_path / "run"
    assert nano(workdir, "--stop", folder=tmp_path).returncode == STOPPED
    made = sorted(workdir.glob("seed0/*/result.json"))
    names = {path.parent.name for path in made}
    assert {"documents", "tokenizer", "corpora", "pretrain", "long", "cold_start"} <= names
    assert "reasoning_rl" not in names
    before = [path.stat().st_mtime_ns for path in made]
    done = nano(workdir, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [path.stat().st_mtime_ns for path in made] == before
    states = json.loads(done.stdout.splitlines()[-1])
    assert set(states) == {f"C{n}" for n in range(1, 9)} and None not in states.values()
    assert "not tried" not in "".join(states.values())
    check_export(workdir / "seed0" / "export" / "model")


def check_export(folder):
    """transformers reads it with our logits, and `qwen3 chat` talks to it."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    ids = qwen3.load(folder).tokenizer.encode("Mia has a lock at 604. Monday reverse.")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits.numpy()
    np.testing.assert_allclose(qwen3.load(folder).logits([ids]), wanted, atol=1e-4)
    said = subprocess.run(
        [sys.executable, "-m", "qwen3.cli", "chat", str(folder), "--max-tokens", "8"],
        input="Mia has a lock at 604.\n/quit\n",
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert said.returncode == 0 and not said.stderr, said.stderr


@pytest.mark.slow
def test_the_colab_notebook_runs_to_its_report(tmp_path):
    done = nano(
        "--notebook",
        Path(__file__).parents[2] / "experiments" / "colab" / "recipe.ipynb",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "recipe" / "report.html").exists()
