"""Scoring files in IFEval's form: {key, prompt, instruction_id_list, kwargs} a line (2311.07911).

Strict scores by the rows of checks.py. For languages in Latin script there is no verdict: telling
them apart needs a model, and a guess would be noise.
"""

from qwen3.data.jsonl import records
from qwen3.rewards import checks
from qwen3.rewards.task import NoVerdict, Problem, ask

CHOICES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

# instruction id -> (check, {its parameter: the file's parameter}, fixed parameters)
INSTRUCTIONS = {
    "change_case:capital_word_frequency": (
        checks.capital_words,
        {"compare": "capital_relation", "n": "capital_frequency"},
        {},
    ),
    "change_case:english_capital": (checks.uppercase, {}, {}),
    "change_case:english_lowercase": (checks.lowercase, {}, {}),
    "combination:repeat_prompt": (checks.repeats, {"prompt": "prompt_to_repeat"}, {}),
    "combination:two_responses": (checks.two_answers, {}, {}),
    "detectable_content:number_placeholders": (checks.placeholders, {"n": "num_placeholders"}, {}),
    "detectable_content:postscript": (checks.postscript, {"mark": "postscript_marker"}, {}),
    "detectable_format:constrained_response": (checks.one_of, {}, {"options": CHOICES}),
    "detectable_format:json_format": (checks.json_only, {}, {}),
    "detectable_format:multiple_sections": (
        checks.sections,
        {"mark": "section_spliter", "n": "num_sections"},
        {},
    ),
    "detectable_format:number_bullet_lists": (checks.bullets, {"n": "num_bullets"}, {}),
    "detectable_format:number_highlighted_sections": (
        checks.highlights,
        {"n": "num_highlights"},
        {},
    ),
    "detectable_format:title": (checks.title, {}, {}),
    "keywords:existence": (checks.keywords, {"words": "keywords"}, {}),
    "keywords:forbidden_words": (checks.forbidden, {"words": "forbidden_words"}, {}),
    "keywords:frequency": (
        checks.frequency,
        {"word": "keyword", "compare": "relation", "n": "frequency"},
        {},
    ),
    "keywords:letter_frequency": (
        checks.letter,
        {"letter": "letter", "compare": "let_relation", "n": "let_frequency"},
        {},
    ),
    "language:response_language": (checks.script, {"language": "language"}, {}),
    "length_constraints:nth_paragraph_first_word": (
        checks.paragraph_start,
        {"n": "num_paragraphs", "index": "nth_paragraph", "word": "first_word"},
        {},
    ),
    "length_constraints:number_paragraphs": (
        checks.paragraphs,
        {"n": "num_paragraphs"},
        {"separator": r"\s?\*\*\*\s?"},
    ),
    "length_constraints:number_sentences": (
        checks.sentences,
        {"compare": "relation", "n": "num_sentences"},
        {},
    ),
    "length_constraints:number_words": (
        checks.words,
        {"compare": "relation", "n": "num_words"},
        {},
    ),
    "punctuation:no_comma": (checks.no_comma, {}, {}),
    "startend:end_checker": (checks.end_phrase, {"phrase": "end_phrase"}, {}),
    "startend:quotation": (checks.quotation, {}, {}),
}


def read_ifeval(path):
    """The file's prompts as Problems; ValueError for an unknown instruction or no parameter."""
    problems = []
    for row in records(path, ("key", "prompt", "instruction_id_list", "kwargs")):
        wanted = []
        for name, given in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            if name not in INSTRUCTIONS:
                raise ValueError(f"{path}: {name!r} is none of {list(INSTRUCTIONS)}")
            _, renamed, fixed = INSTRUCTIONS[name]
            missing = [field for field in renamed.values() if given.get(field) is None]
            if missing:
                raise ValueError(f"{path}: key {row['key']}: {name} lacks {missing}")
            parameters = {ours: given[theirs] for ours, theirs in renamed.items()}
            wanted.append([name, {**parameters, **fixed}])
        problems.append(Problem("ifeval", ask(row["prompt"]), {"instructions": wanted}))
    return problems


def verdicts(problem, answer):
    """True, False or None (no verdict) per instruction; `answer` is the text after the block."""
    found = []
    for name, parameters in problem.answer["instructions"]:
        try:
            found.append(bool(answer.strip()) and INSTRUCTIONS[name][0](answer, **parameters))
        except ValueError:
            found.append(None)
    return found


def grade(problem, answer):
    """1.0 if all instructions are followed; NoVerdict if the rest hangs on one without verdict."""
    found = verdicts(problem, answer)
    if False in found:
        return 0.0
    if None in found:
        raise NoVerdict(f"an instruction of {problem.messages[0]['content'][:60]!r}")
    return 1.0
