"""A corpus of made documents with planted facts, and a scripted model that reads it.

The model is bad on purpose: beside what is right it invents quotations, numbers and notes, which
must not get into a report.
"""

import json
import re
from pathlib import Path
from random import Random

from reportlab.lib.pagesizes import A4
from reportlab.pdfgen import canvas

TOPICS = {  # topic: (measure, sentence); the words tell the topics apart
    "flour": ("flour in tonnes", "The mill of {town} ground {value} tonnes of flour in 1931."),
    "bridge": ("length in metres", "The iron bridge at {town} spans {value} metres of river."),
    "school": ("pupils", "In {town} the grammar school taught {value} pupils that winter."),
    "wool": ("bales of wool", "Weavers of {town} sold {value} bales of wool at the fair."),
    "lamps": ("street lamps", "The council of {town} lit {value} street lamps by gas."),
}
TOWNS = ("Aldham", "Brenzett", "Corley", "Dunwick")
SILENT = "How many telescopes did the observatories own?"
REQUEST = "How did the valley's towns live?"
BACK = ("Which years?", "Which towns?")
FILLER = (
    "The road follows the hedge for some way and then turns to the church.",
    "Nothing is known of the builder, whose name the register does not give.",
    "In dry summers the ford could be crossed on foot by the whole village.",
    "A market was held there until the railway drew the trade away.",
    "The parish papers of these years were lost in a fire.",
)


def facts():
    """One planted fact a town and topic: {"topic", "town", "value", "text"}."""
    rng = Random("planted")
    return [
        {"topic": topic, "town": town, "value": value, "text": text.format(town=town, value=value)}
        for topic, (_, text) in TOPICS.items()
        for town in TOWNS
        for value in [f"{rng.randint(1, 9)},{rng.randint(100, 999)}"]
    ]


def write_corpus(folder: Path):
    """200 documents, a fact in one of ten; rows as `research_score.read_facts` gives them."""
    rng, planted, rows = Random("corpus"), facts(), []
    for number in range(200):
        paragraphs = [" ".join(rng.sample(FILLER, 3)) for _ in range(4)]
        kind = ("txt", "md", "html", "txt", "md")[number % 5] if number % 20 else "pdf"
        name = f"{'abc'[number % 3]}/document{number:03}.{kind}"
        if number % 10 == number // 10 % 10:  # documents of every kind
            fact = planted.pop(0)
            paragraphs[2] = f"{paragraphs[2]} {fact['text']}"
            rows.append(
                {"question": question(fact["topic"]), "answers": [fact["value"]], "source": name}
            )
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[kind](path, f"Papers of parish {number}", paragraphs)
    assert not planted
    return [*rows, {"question": SILENT, "answers": []}]


def question(topic):
    return f"What of {topic}: {TOPICS[topic][0]} of each town?"


def _txt(path, title, paragraphs):
    path.write_text("\n\n".join([title, *paragraphs]))


def _md(path, title, paragraphs):
    path.write_text("\n\n".join([f"# {title}", *paragraphs]))


def _html(path, title, paragraphs):
    body = "".join(f"<p>{text}</p>" for text in paragraphs)
    path.write_text(
        f"<html><head><title>{title}</title><script>var flour = 1</script></head>"
        f"<body><nav>Home</nav>{body}</body></html>"
    )


def _pdf(path, title, paragraphs):
    page = canvas.Canvas(str(path), pagesize=A4, invariant=1)
    for number, text in enumerate([title, *paragraphs]):
        lines = page.beginText(60, 780 - 300 * (number % 2))
        for line in re.findall(r".{1,90}(?:\s|$)", text):
            lines.textLine(line)
        page.drawText(lines)
        page.showPage() if number % 2 else None
    page.save()


WRITERS = {"txt": _txt, "md": _md, "html": _html, "pdf": _pdf}


class ScriptedModel:
    """Answers by the words of the prompt alone, so that a call can be made again anywhere."""

    def __init__(self):
        self.calls = []  # the messages of all

    def __call__(self, messages, max_tokens):
        from qwen3.infer.model_client import Reply

        self.calls.append(json.dumps(messages))
        text = self.answer(messages)
        return Reply(text, sum(len(m["content"]) for m in messages) // 4 + len(text) // 4)

    def answer(self, messages):
        task, text = messages[0]["content"], messages[1]["content"]
        for begin, reply in (
            ("You prepare", lambda: [{"question": back} for back in BACK]),
            ("You plan", self._plan),
            ("You take notes", lambda: self._notes(text)),
            ("You write one", lambda: self._sentences(text)),
            ("You write the", lambda: self._sentences(text)[:5]),
        ):
            if task.startswith(begin):
                return f"Here it is:\n```json\n{json.dumps(reply())}\n```"
        raise AssertionError(task)

    def _plan(self):
        plan = [{"question": question(topic), "search": TOPICS[topic][1]} for topic in TOPICS]
        return [*plan, {"question": SILENT, "search": "telescope observatory"}]

    def _notes(self, text):
        shown, asked = text.rsplit("\n\nQuestion: ", 1)
        notes = []
        for number, body in re.findall(r"<passage (\d+) of .*?>\n(.*?)\n</passage>", shown, re.S):
            for fact in facts():
                flat = " ".join(body.split())
                if question(fact["topic"]) == asked and fact["text"] in flat:
                    notes.append(_note(int(number), fact))
        if notes:
            wrong = {"passage": 1, "fact": "All was well.", "quote": "as every child knows"}
            number = notes[0] | {"fact": "It was 98765 in all."}
            notes += [wrong, number, {"passage": 99, "fact": "x", "quote": "x"}]
        return [*notes, {"search": f"{asked} again"}]

    def _sentences(self, text):
        notes = re.findall(r"^\[(\d+)\] (.*) \(.*\)$", text, re.M)
        right = [{"sentence": f"It is told: {fact}", "notes": [int(n)]} for n, fact in notes]
        wrong = [
            {"sentence": "In all 123456 were counted.", "notes": [int(notes[0][0])]},
            {"sentence": "This no note says.", "notes": []},
            {"sentence": "Nor this.", "notes": [4711]},
        ]
        return [*right, *wrong]


def _note(number, fact):
    return {
        "passage": number,
        "fact": fact["text"],
        "quote": fact["text"],
        "subject": fact["town"],
        "measure": TOPICS[fact["topic"]][0],
        "value": fact["value"],
    }
