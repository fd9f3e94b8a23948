"""A model whose answers are a function of the question, in place of a server or an engine."""

from collections import Counter

from qwen3.infer.model_client import Reply
from qwen3.infer.reply_store import StoredModel


class ScriptedModel:
    """answer(instruction, text, question) -> text, "cut" for one that was cut, or an
    Exception as the reply's fault."""

    def __init__(self, answer):
        self.answer, self.asked = answer, Counter()

    def __call__(self, questions):
        for i, question in enumerate(questions):
            instruction, text = (message["content"] for message in question.messages)
            self.asked[instruction[:40], text, question.seed] += 1
            reply = self.answer(instruction, text, question)
            if isinstance(reply, Exception):
                yield i, Reply(None, fault=reply)
            else:
                yield i, Reply(reply, finish="length" if reply == "cut" else "stop")


def serve(monkeypatch, answer):
    """All steps ask this model from now on."""
    from qwen3.pipeline import model_steps

    model = ScriptedModel(answer)
    opened = {}

    def opener(choice):
        if choice not in opened:
            opened[choice] = StoredModel(lambda: model, choice.model, choice.store)
        return opened[choice]

    monkeypatch.setattr(model_steps, "opened", opener)
    return model
