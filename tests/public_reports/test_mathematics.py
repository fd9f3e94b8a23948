"""Final answers that public reports show a verifier to have judged wrongly, with the right verdict.

Every row names the report by repository and number; inputs and verdicts are written anew here.
"""

from dataclasses import dataclass

import pytest

from qwen3.rewards import maths


@dataclass(frozen=True)
class Row:
    """A reference, a final answer, and whether the answer is right."""

    source: str  # owner/repository#number of the report
    reference: str
    answer: str
    right: bool


ANSWERS = [
    # Numbers that differ by less than floats can tell, and numbers taken out of a formula.
    Row("huggingface/Math-Verify#14", "\\frac{1}{2004!}", "\\frac{1}{2006!}", False),
    Row("huggingface/Math-Verify#14", "\\frac{1}{2^{99}}", "\\frac{1}{2^{98}}", False),
    Row("huggingface/Math-Verify#14", "1 - \\frac{1}{\\mathrm{e}}", "1-e^{-1}", True),
    Row("huggingface/Math-Verify#82", "1 - \\frac{1}{\\mathrm{e}}", "1 + \\frac{1}{e}", False),
    Row("huggingface/Math-Verify#41", "4", "4\\sqrt(2)", False),
    Row("huggingface/Math-Verify#41", "4\\sqrt{2}", "4\\sqrt(2)", True),
    Row("huggingface/Math-Verify#2", "33.3", "\\frac{100}{3}", False),
    # Several values: all of them, in any order, and no other ones.
    Row("huggingface/Math-Verify#14", "n=2, 3, 4", "n=1, 2, 3", False),
    Row("huggingface/Math-Verify#14", "19, 46, \\text{ and } 82", "21, 36, and 82", False),
    Row("huggingface/Math-Verify#14", "19, 46, \\text{ and } 82", "82, 19, 46", True),
    Row("huggingface/Math-Verify#14", "\\pm 2021", "2021", False),
    Row("huggingface/Math-Verify#47", "1331 and 1728", "1728", False),
    Row("huggingface/Math-Verify#47", "1331 and 1728", "1728, 1331", True),
    Row("modelscope/ms-swift#4541", "1, -2", "a=1 \\text{ or } a=-2", True),
    Row("modelscope/ms-swift#4541", "1, -2", "a=1 \\text{ or } a=2", False),
    Row("huggingface/Math-Verify#60", "\\{1,2,3,4\\}", "\\{1,3\\} \\cup \\{2,4\\}", True),
    Row("huggingface/Math-Verify#60", "\\{1,2,3,4\\}", "\\{1,3\\} \\cup \\{2\\}", False),
    # Times and ratios are no quotients by zero.
    Row("huggingface/Math-Verify#14", "12:00", "1:00", False),
    Row("huggingface/Math-Verify#14", "1:2:3:\\ldots", "1:4:9:\\ldots", False),
    # Intervals, inequalities and what is left out of them.
    Row("huggingface/Math-Verify#14", "D = (0, 1)", "D = (0, 1.5)", False),
    Row("huggingface/Math-Verify#10", "(0, 12.5)", "0 < x < 12.5", True),
    Row("huggingface/Math-Verify#25", "m \\geq \\sqrt{2}", "m \\in [\\sqrt{2}, +\\infty)", True),
    Row("huggingface/Math-Verify#25", "m \\in [\\sqrt{2}, +\\infty)", "m > \\sqrt{2}", False),
    Row(
        "open-thoughts/OpenThoughts-Agent#129",
        "(-\\infty,-1) \\cup (-1,\\infty)",
        "(-\\infty,\\infty)",
        False,
    ),
    Row(
        "open-thoughts/OpenThoughts-Agent#129",
        "\\mathbb{R} \\setminus \\{0, 1\\}",
        "(-\\infty,0) \\cup (0,1) \\cup (1,\\infty)",
        True,
    ),
    Row(
        "open-thoughts/OpenThoughts-Agent#129",
        "\\mathbb{R} \\setminus \\{0, 1\\}",
        "x \\neq 0 \\text{ and } x \\neq 1",
        True,
    ),
    Row(
        "open-thoughts/OpenThoughts-Agent#129",
        "\\mathbb{R} \\setminus \\{0, 1\\}",
        "x \\ne 0",
        False,
    ),
    # Equations: multiples of each other are the same line; one side alone decides nothing.
    Row("huggingface/Math-Verify#60", "3x-y+13=0", "3x + 4y + 14=0", False),
    Row("huggingface/Math-Verify#2", "34x+45y-20z+100=0", "-34x-45y+20z-100=0", True),
    Row("huggingface/Math-Verify#26", "2x+4y-3=0", "y = -1/2*x + 3/4", True),
    Row("huggingface/Math-Verify#26", "2x+4y-3=0", "y = -\\frac12 x + \\frac32", False),
    Row("scitix/sieval#26", "n=3k", "3", False),
    Row("scitix/sieval#26", "f(x)=cx", "f(x) = cx \\text{ for any constant } c", True),
    Row("scitix/sieval#26", "f(x)=cx", "f(x) = cx^2 \\text{ for any constant } c", False),
    Row("scitix/sieval#26", "120^\\circ", "120", True),
    # One value in two notations.
    Row("huggingface/Math-Verify#2", "(1,\\frac{9}{2})", "(1,4.5)", True),
    Row("huggingface/Math-Verify#2", "\\frac{x+2}{7}", "\\frac{x}{7}+\\frac{2}{7}", True),
    Row("huggingface/Math-Verify#2", "\\tan^2(y)+1", "\\sec^2(y)", True),
    Row(
        "huggingface/Math-Verify#2",
        "(\\begin{pmatrix}-\\frac{7}{4}&-2\\\\4&\\frac{1}{4}\\\\\\end{pmatrix})",
        "\\begin{pmatrix}-\\frac{7}{4}&-2\\\\4&\\frac{1}{4}\\end{pmatrix}",
        True,
    ),
    Row("huggingface/Math-Verify#39", "\\frac{\\sqrt{3}}{3}", "sqrt(3)/3", True),
    Row("huggingface/Math-Verify#64", "\\sqrt{1/n}", "\\frac{1}{\\sqrt{n}}", True),
    Row("huggingface/Math-Verify#69", "e^{16} - 1", "-1 + exp(16)", True),
    Row("huggingface/Math-Verify#69", "14 - i", "14.0 + -1.0i", True),
    Row("huggingface/Math-Verify#69", "-2\\pi", "-2*pi", True),
    Row("huggingface/Math-Verify#69", "O(\\log \\log n)", "Theta(log log n)", False),
    Row("huggingface/Math-Verify#74", "1 - \\sqrt{2}", "$1 - \\sqrt{2}$", True),
    Row("huggingface/Math-Verify#74", "1", "1 - \\sqrt{2}", False),
    # Wrappings: text, emphasis, display mathematics, bases, thousands, signs.
    Row("huggingface/Math-Verify#37", "13", "\\text{13}", True),
    Row("huggingface/Math-Verify#76", "73", "**73**", True),
    Row("EleutherAI/lm-evaluation-harness#3838", "42", "\\[ 42 \\]", True),
    Row("EleutherAI/lm-evaluation-harness#3807", "11111_2", "11111_{2}", True),
    Row("open-compass/opencompass#2647", "9500", "$9{,}500", True),
    Row("open-compass/opencompass#2647", "500", "$9{,}500", False),
    Row("open-compass/opencompass#2426", "70000", "\\$70,000", True),
    Row("google-deepmind/proeval#19", "-1234.5", "-1,234.5", True),
    Row("google-deepmind/proeval#19", "-3", "3", False),
    # Choices: the letter, also with the text of its choice, and never two of them.
    Row("huggingface/Math-Verify#16", "A", "A", True),
    Row("NVIDIA-NeMo/Gym#1844", "E", "\\text{E}", True),
    Row("NVIDIA-NeMo/Gym#1844", "E", "E: a score made of many genes", True),
    Row("NVIDIA-NeMo/Gym#1844", "E", "D: a score made of many genes", False),
    Row("NVIDIA-NeMo/Gym#1844", "E", "E: many genes, or D", False),
]


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: f"{row.source} {row.answer}")
def test_the_verdict_is_the_right_one(row):
    problem = maths.problem("?", row.reference)
    score = maths.final_answer.score(problem, f"It is \\boxed{{{row.answer}}}.")
    assert score == float(row.right)


@dataclass(frozen=True)
class Text:
    """A reference, a whole answer, and its score."""

    source: str
    reference: str
    text: str
    score: float


TEXTS = [
    Text(
        "huggingface/Math-Verify#44",
        "840",
        "So it must be \\boxed{840}. Let me explain.\n\n**Final answer**\n\\boxed{840}",
        1.0,
    ),
    Text(
        "huggingface/Math-Verify#44",
        "4",
        "The last digits are \\boxed{004}, as 2,552,004 ends in 004.\n\\boxed{004}",
        1.0,
    ),
    Text(
        "huggingface/Math-Verify#57",
        "1",
        "I get \\boxed{1}. The reason for \\boxed{1} is that all else cancels.",
        1.0,
    ),
    Text("huggingface/Math-Verify#57", "4", "First \\boxed{35 cm}, then \\boxed{4}.", 0.0),
    Text(
        "EleutherAI/lm-evaluation-harness#3477",
        "12",
        "The task says to mark the solution with \\boxed. Therefore \\boxed{12}.",
        1.0,
    ),
    Text("marin-community/marin#9163", "7", "Perhaps \\boxed{7}, but rather \\boxed{", 0.0),
    Text("huggingface/open-r1#293", "see the proof above", "\\boxed{7}", 0.0),
    Text("huggingface/open-r1#86", "\\frac{", "\\boxed{\\frac{1}{2}}", 0.0),
    Text("huggingface/open-r1#566", "\\frac{63}{400}", "\\boxed{\\frac{64}{400}}", 0.0),
    Text("huggingface/open-r1#566", "6", "It is six: \\boxed{6}", 1.0),
]


@pytest.mark.parametrize("row", TEXTS, ids=lambda row: f"{row.source} {row.score}")
def test_the_one_final_answer_of_a_text_decides(row):
    assert maths.final_answer.score(maths.problem("?", row.reference), row.text) == row.score
