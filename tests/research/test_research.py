"""Research on 200 made documents: all facts found, all citations right, killed and gone on with."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading

import pypdfium2
import pytest
from made_corpus import BACK, REQUEST, SILENT, TOPICS, ScriptedModel, facts
from scripted_endpoint import model_server

from qwen3 import cli
from qwen3.research import research_score
from qwen3.research.research_run import ResearchSettings, run
from qwen3.train.writing import WorkdirError

SETTINGS = ResearchSettings(question=REQUEST, model="scripted", passages=6)


class Killed(BaseException):
    """Ends a run at once, as a signal would."""


class Person:
    """Answers questions, and may be killed before one."""

    def __init__(self):
        self.asked = []

    def __call__(self, text):
        self.asked.append(text)
        return f"Answer {len(self.asked)}."


@pytest.fixture(scope="module")
def finished(made, tmp_path_factory):
    """(report, folder, model, person) of a run that nothing disturbed."""
    out, model, person = tmp_path_factory.mktemp("out"), ScriptedModel(), Person()
    return run(SETTINGS, made[1], out, model, person), out, model, person


def test_every_fact_is_in_the_report_with_its_source_and_all_citations_resolve(made, finished):
    report, _, _, person = finished
    assert person.asked == list(BACK)
    score = research_score.score(report, made[1], made[2])
    assert {name: value.value for name, value in score.items()} == {
        "resolved": 1.0,
        "supported": 1.0,
        "covered": 1.0,
        "abstained": 1.0,
    }
    assert score["covered"].n == len(facts()) == 20
    (silent,) = (section for section in report.sections if section.question == SILENT)
    assert silent.state == "silent" and not silent.statements


def test_what_the_model_invents_is_left_out_and_counted(finished):
    report, out, _, _ = finished
    page = (out / "report.md").read_text()
    for invented in ("All was well", "98765 in all", "123456", "no note says", "Nor this"):
        assert invented not in page
    assert {name.split(" ")[0] for name in report.left_out} == {"notes", "sentences"}
    assert report.left_out["sentences that cite a note which does not exist"] == len(TOPICS)
    assert report.left_out["notes with a number that is not in the passage"] >= len(TOPICS)


def test_the_page_has_tables_and_its_links_lead_to_sources(finished):
    page = (finished[1] / "report.md").read_text()
    cited = {int(n) for n in re.findall(r"\]\(#s(\d+)\)", page)}
    listed = {int(n) for n in re.findall(r'<a id="s(\d+)">', page)}
    assert cited == listed == set(range(1, len(listed) + 1))
    for fact in facts():
        assert re.search(rf"\| {fact['town']} \| {fact['value']} \| \[\[\d+\]\]", page)


def test_the_pdf_opens_with_tables_links_and_every_fact(finished):
    document = pypdfium2.PdfDocument(finished[1] / "report.pdf")
    text = " ".join(page.get_textpage().get_text_bounded() for page in document)
    text = " ".join(text.split())
    for fact in facts():
        assert f"{fact['town']} {fact['value']}" in text  # a row of a table
        assert fact["text"] in text
    assert "Sources" in text and SILENT in text
    assert (finished[1] / "report.pdf").read_bytes().count(b"/Subtype /Link") >= len(facts())


def test_killed_at_five_points_it_asks_and_calls_nothing_twice(made, finished, tmp_path):
    whole, out, undisturbed, _ = finished
    model, person = ScriptedModel(), Person()
    total = len(undisturbed.calls)

    def ask(messages, max_tokens):
        reply = model(messages, max_tokens)
        if len(model.calls) in deadly:
            deadly.remove(len(model.calls))
            model.calls.pop()  # it never came to be known
            raise Killed
        return reply

    def ask_user(text):
        if not person.asked and "question" in deadly:
            deadly.remove("question")
            raise Killed
        return person(text)

    deadly, kills = ["question", 2, 5, total // 2, total], 0
    while True:
        try:
            report = run(SETTINGS, made[1], tmp_path, ask, ask_user)
            break
        except Killed:
            kills += 1
            with (tmp_path / "journal.jsonl").open("a") as file:
                file.write('{"name": "notes/1/')  # a line that the kill cut off
    assert kills == 5 and not deadly
    assert model.calls == undisturbed.calls and len(set(model.calls)) == total
    assert person.asked == list(BACK)
    alike = {"spent": whole.spent}  # seconds are measured
    assert dataclasses.replace(report, **alike) == whole
    assert report.spent["tokens"] == whole.spent["tokens"]
    again = ScriptedModel()
    run(SETTINGS, made[1], tmp_path, again, ask_user)
    assert not again.calls and len(person.asked) == len(BACK)


def command(folder, url, out, *more):
    parts = ["research", REQUEST, "--corpus", str(folder), "--url", url, "--out", str(out)]
    return [*parts, "--answer", "1931.", "--passages", "6", *more]


@pytest.mark.parametrize(
    "points", [[4], pytest.param([0, 1, 3, 8, 15], marks=pytest.mark.slow)], ids=["one", "five"]
)
def test_kill_9_of_the_command_repeats_no_call(made, tmp_path, points):
    deadly, reached, release = list(points), threading.Event(), threading.Event()

    def before(count):
        if count in deadly:
            deadly.remove(count)
            reached.set()
            release.wait()  # killed while it waits for this answer
            release.clear()
            raise ConnectionAbortedError

    with model_server(before=before) as (url, model):
        program = [sys.executable, "-m", "qwen3.cli", *command(made[0], url, tmp_path)]
        for _ in points:
            process = subprocess.Popen(
                program, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ
            )
            while not reached.wait(0.05):
                assert process.poll() is None, process.stderr.read().decode()
            reached.clear()
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            release.set()
        done = subprocess.run(program, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len(model.calls) == len(set(model.calls))
    assert done.stdout.split() == [str(tmp_path / f"report.{kind}") for kind in ("md", "pdf")]
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["clarified"][0]["answer"] == "1931."
    assert stored["spent"]["calls"] == len(model.calls)


def test_the_budget_in_tokens_ends_reading_and_is_said(made, tmp_path):
    model = ScriptedModel()
    settings = dataclasses.replace(SETTINGS, tokens=6000, asks=False)
    report = run(settings, made[1], tmp_path, model, None)
    states = [section.state for section in report.sections]
    assert states[0] == "answered" and states[-1] == "spent"
    assert report.spent["tokens"] < 6000 + 4000  # at most one call too many
    assert "the budget was spent" in (tmp_path / "report.md").read_text()
    minutes = dataclasses.replace(settings, tokens=None, minutes=1e-9)
    spent = run(minutes, made[1], tmp_path / "minutes", ScriptedModel(), None)
    assert {section.state for section in spent.sections} == {"spent"}


def test_another_question_corpus_or_process_in_the_same_folder_is_refused(made, tmp_path):
    settings = dataclasses.replace(SETTINGS, asks=False)
    run(settings, made[1], tmp_path, ScriptedModel(), None)
    other = dataclasses.replace(settings, question="What else?")
    with pytest.raises(ValueError, match="holds another research .question"):
        run(other, made[1], tmp_path, ScriptedModel(), None)
    changed = dataclasses.replace(made[1], digest="other")
    with pytest.raises(ValueError, match="corpus"):
        run(settings, changed, tmp_path, ScriptedModel(), None)

    def ask(messages, max_tokens):
        with pytest.raises(WorkdirError, match="open in this process"):
            run(settings, made[1], tmp_path / "locked", ScriptedModel(), None)
        raise Killed

    with pytest.raises(Killed):
        run(settings, made[1], tmp_path / "locked", ask, None)


@pytest.mark.parametrize("text", ["", "I cannot.", "[[[[" * 50_000, '[{"a": 1}]', "\x00]["])
def test_a_model_that_answers_nonsense_is_named_and_counted(made, tmp_path, text):
    def ask(messages, max_tokens):
        return text, 10

    from qwen3.infer.model_client import Reply

    with pytest.raises(
        ValueError, match="scripted answered nothing that can be used: .*replies|lack"
    ):
        run(SETTINGS, made[1], tmp_path, lambda m, n: Reply(*ask(m, n)), Person())


def test_a_server_that_is_down_or_refuses_is_one_line_and_exit_code_2(
    made, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("qwen3.research.model_calls.RETRIES", 0)
    assert cli.main(command(made[0], "http://127.0.0.1:9/v1", tmp_path)) == 2
    assert "no answer from http://127.0.0.1:9/v1" in capsys.readouterr().err

    class Broken(ScriptedModel):
        def answer(self, messages):
            raise ValueError("broken")

    with model_server(Broken()) as (url, _):
        assert cli.main(command(made[0], url, tmp_path / "broken")) == 2
    assert f"no answer from {url}" in capsys.readouterr().err
