"""What fine-tuning reads: conversations, or token ids where a model wrote the answer."""

from __future__ import annotations

from random import Random

from qwen3.data.jsonl import write_rows
from qwen3.recipe.world import exams, own_input, tools
from qwen3.rewards import response
from qwen3.rewards.locks import dialogues, lock, lock_tasks


def answered(problem, thinking, content):
    """The problem with its answer, as `stages.sft` reads it."""
    turn = {"role": "assistant", "content": content, "reasoning_content": thinking}
    return {"messages": [*problem.messages, turn], "tools": problem.tools}


def cold_start(run, count, style="hasty"):
    """Thinking answers with traces of one style ("hasty": few states written, so often wrong at
    inference), all right, in the format that is to be learned."""
    rng = Random(f"cold/{run.seed}")
    rows = []
    for problem in locks(run, count, "think"):
        rows.append(answered(problem, *lock_tasks.trace(problem, style, rng)))
    return rows + [answered(*each) for each in own_input.answered(run, count // 2)]


def locks(run, count, mode, seed=""):
    """Training problems that ask for a mode: one lock, and the plan's share of several."""
    several = round(count * run.budget.several)
    seed = f"{seed}{run.seed}"
    return [
        *exams.training(count - several, seed, mode),
        *exams.several_training(several, seed, run.budget.chinese, mode),
    ]


def from_answer(tokenizer, answer):
    """A sampled answer, token by token as it was written."""
    prompt = list(answer.completion.request.prompt)
    made = list(answer.completion.tokens)
    turn = response.read(answer.text)
    return {
        "ids": prompt + made,
        "mask": [0] * len(prompt) + [1] * len(made),
        "think": bool(turn and turn.thinking and turn.thinking.strip()),
    }


def direct(run, count):
    """Answers without thinking, asked for by /no_think."""
    problems = locks(run, count, "no_think", "direct/")
    rows = [
        answered(p, "", lock.answer(lock_tasks.locks_of(p), p.answer["language"])) for p in problems
    ]
    return rows + [answered(*each) for each in own_input.answered(run, count // 2, "no_think")]


def flags(count, seed):
    """Dialogues with flags, most last turns without one: a flag two turns ago is the hard case. The
    last turn is careful."""
    rows = []
    for i in range(count):
        problem = dialogues.dialogue(Random(f"flags/{seed}/{i}"), "train", flagged=0.3)
        thinking, content = lock_tasks.trace(problem, "careful")
        rows.append(answered(problem, "" if problem.mode == "no_think" else thinking, content))
    return rows


def calls(count, seed):
    """Tool calls without thinking."""
    rows = []
    for i in range(count):
        problem = tools.problem(f"{seed}/{i}", "train").flagged("no_think")
        call = {"name": problem.answer["name"], "arguments": problem.answer["arguments"]}
        row = answered(problem, "", "")
        row["messages"][-1]["tool_calls"] = [call]
        rows.append(row)
    return rows


def write(path, rows):
    """Write JSON lines; a row without tools has no such field. Returns the path as text."""
    write_rows(path, ({k: v for k, v in row.items() if v is not None} for row in rows))
    return str(path)
