"""IFEval (arXiv 2311.07911): instruction following, strict scores by the checks of our own.

Files hold {key, prompt, instruction_id_list, kwargs} a line and are read by `read_ifeval`; the
task `ifeval` scores them, and generates prompts of the same kind from the wordings of the task
`constraints`. For languages in Latin script there is no verdict: telling them apart needs a model,
and a guess would be noise.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from qwen3.data.jsonl import place, read_rows
from qwen3.rewards import constraint_checks as checks
from qwen3.rewards import constraints
from qwen3.rewards.task import NoVerdict, Problem, Task, ask

CHOICES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


class Instruction(NamedTuple):
    """How an instruction of the benchmark is checked."""

    check: Callable[..., bool]  # check(answer, **parameters)
    parameters: Mapping[str, str] = {}  # parameter of the check -> its name in the files
    fixed: Mapping[str, Any] = {}  # parameters that the files do not give


INSTRUCTIONS: dict[str, Instruction] = {
    "change_case:capital_word_frequency": Instruction(
        checks.capital_words,
        {"compare": "capital_relation", "n": "capital_frequency"},
    ),
    "change_case:english_capital": Instruction(checks.uppercase),
    "change_case:english_lowercase": Instruction(checks.lowercase),
    "combination:repeat_prompt": Instruction(checks.repeats, {"prompt": "prompt_to_repeat"}),
    "combination:two_responses": Instruction(checks.two_answers),
    "detectable_content:number_placeholders": Instruction(
        checks.placeholders, {"n": "num_placeholders"}
    ),
    "detectable_content:postscript": Instruction(checks.postscript, {"mark": "postscript_marker"}),
    "detectable_format:constrained_response": Instruction(checks.one_of, {}, {"options": CHOICES}),
    "detectable_format:json_format": Instruction(checks.json_only),
    "detectable_format:multiple_sections": Instruction(
        checks.sections,
        {"mark": "section_spliter", "n": "num_sections"},
    ),
    "detectable_format:number_bullet_lists": Instruction(checks.bullets, {"n": "num_bullets"}),
    "detectable_format:number_highlighted_sections": Instruction(
        checks.highlights,
        {"n": "num_highlights"},
    ),
    "detectable_format:title": Instruction(checks.title),
    "keywords:existence": Instruction(checks.keywords, {"words": "keywords"}),
    "keywords:forbidden_words": Instruction(checks.forbidden, {"words": "forbidden_words"}),
    "keywords:frequency": Instruction(
        checks.frequency,
        {"word": "keyword", "compare": "relation", "n": "frequency"},
    ),
    "keywords:letter_frequency": Instruction(
        checks.letter,
        {"letter": "letter", "compare": "let_relation", "n": "let_frequency"},
    ),
    "language:response_language": Instruction(checks.script, {"language": "language"}),
    "length_constraints:nth_paragraph_first_word": Instruction(
        checks.paragraph_start,
        {"n": "num_paragraphs", "index": "nth_paragraph", "word": "first_word"},
    ),
    "length_constraints:number_paragraphs": Instruction(
        checks.paragraphs,
        {"n": "num_paragraphs"},
        {"separator": r"\s?\*\*\*\s?"},
    ),
    "length_constraints:number_sentences": Instruction(
        checks.sentences,
        {"compare": "relation", "n": "num_sentences"},
    ),
    "length_constraints:number_words": Instruction(
        checks.words,
        {"compare": "relation", "n": "num_words"},
    ),
    "punctuation:no_comma": Instruction(checks.no_comma),
    "startend:end_checker": Instruction(checks.end_phrase, {"phrase": "end_phrase"}),
    "startend:quotation": Instruction(checks.quotation),
}


# Parameter of a check -> the type that it has in the files.
KINDS: dict[str, type] = {
    **dict.fromkeys(("n", "index"), int),
    **dict.fromkeys(("compare", "mark", "word", "letter", "language", "prompt", "phrase"), str),
    "words": list,
}
FIELDS = {"key": object, "prompt": str, "instruction_id_list": list, "kwargs": list}

# check -> instruction id; unique for the checks of `constraints`.
ID_OF_CHECK = {row.check: name for name, row in INSTRUCTIONS.items()}


def make(rng: Random, difficulty: float, split: str) -> Problem:
    """A problem of `constraints` with its constraints written as instructions of the benchmark."""
    source = constraints.make(rng, difficulty, split)
    kinds = source.answer["constraints"]
    instructions = [
        [ID_OF_CHECK[constraints.KINDS[kind].check], parameters]
        for kind, parameters in kinds.items()
    ]
    _, solution = constraints.solve(source)
    record = {
        "instructions": instructions,
        "topic": source.answer["topic"],
        "solution": solution,
    }
    return Problem("ifeval", source.messages, record, difficulty)


def read_ifeval(path: str | Path) -> list[Problem]:
    """The file's prompts as Problems; ValueError naming the line with an unknown instruction or
    without a parameter of the right type.
    """
    problems = []
    for line, row in read_rows(path, fields=FIELDS):
        try:
            instructions = [
                [name, _parameters(name, values)]
                for name, values in zip(row["instruction_id_list"], row["kwargs"], strict=True)
            ]
        except ValueError as error:
            raise ValueError(f"{place(path, line)}: {error}") from None
        problems.append(Problem("ifeval", ask(row["prompt"]), {"instructions": instructions}))
    return problems


def _parameters(name: Any, values: Any) -> dict[str, Any]:
    """The parameters of the check of instruction `name` from those of the file."""
    if not isinstance(name, str) or name not in INSTRUCTIONS:
        raise ValueError(f"{name!r:.80} is none of {list(INSTRUCTIONS)}")
    if not isinstance(values, Mapping):
        raise ValueError(f"the kwargs of {name} are {values!r:.80}, wanted an object")
    _, names, fixed = INSTRUCTIONS[name]
    missing = [field for field in names.values() if values.get(field) is None]
    if missing:
        raise ValueError(f"{name} lacks {missing}")
    parameters = {parameter: values[field] for parameter, field in names.items()}
    for parameter, value in parameters.items():
        kind = KINDS[parameter]
        texts = value if kind is list and isinstance(value, list) else ()
        if not isinstance(value, kind) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{names[parameter]} of {name} is {value!r:.80}")
    if "index" in parameters and not 1 <= parameters["index"] <= parameters["n"]:
        raise ValueError(f"{name}: paragraph {parameters['index']} of {parameters['n']}")
    return {**parameters, **fixed}


def verdicts(problem: Problem, answer: str) -> list[bool | None]:
    """True, False or None (no verdict) per instruction; `answer` is the text after the block."""

    def verdict(name: str, parameters: Mapping) -> bool | None:
        try:
            return bool(answer.strip()) and INSTRUCTIONS[name].check(answer, **parameters)
        except ValueError:
            return None

    return [verdict(name, parameters) for name, parameters in problem.answer["instructions"]]


def grade(problem: Problem, answer: str) -> float:
    """1.0 if all instructions are followed; NoVerdict if only one without a verdict is left.

    An answer to a generated problem must also be prose on its topic, as in `constraints`.
    """
    if "topic" in problem.answer and not constraints.on_topic(problem, answer):
        return 0.0
    results = verdicts(problem, answer)
    if False in results:
        return 0.0
    if None in results:
        raise NoVerdict(f"an instruction of {problem.messages[0]['content'][:60]!r}")
    return 1.0


def solve(problem: Problem) -> tuple[str, str]:
    """The answer of a generated problem; ValueError for one of a file, whose answer is unknown."""
    if "solution" not in problem.answer:
        raise ValueError(f"no answer is known to {problem.messages[0]['content'][:60]!r}")
    return "One instruction after the other.", problem.answer["solution"]


def guess(problem: Problem, rng: Random) -> str:
    """Prose of the task `constraints` that heeds no instruction."""
    return constraints.guess(problem, rng)


def _example(*instructions: tuple[str, dict]) -> Problem:
    return Problem("ifeval", ask("Do so."), {"instructions": [list(row) for row in instructions]})


_NO_COMMA = _example(
    ("punctuation:no_comma", {}),
    ("length_constraints:number_words", {"compare": "at least", "n": 3}),
)
_CHOICE = _example(("detectable_format:constrained_response", {"options": list(CHOICES)}))

instructions = Task(
    "ifeval",
    make,
    grade,
    solve,
    guess,
    group="instruction",
    examples=(
        (_NO_COMMA, "<think>\nNo, none.\n</think>\n\nOne two three.", 1.0),
        (_NO_COMMA, "One, two three.", 0.0),
        (_NO_COMMA, "One two.", 0.0),
        (_NO_COMMA, "<think>\nOne two three.\n</think>\n\nDone.", 0.0),
        (_CHOICE, "My answer is", 0.0),
        (_CHOICE, "My answer is maybe.", 1.0),
        (_CHOICE, "My answer is yes. My answer is no. My answer is maybe.", 0.0),
    ),
)
