"""The child that runs math-verify: one JSON {"gold", "answer"} a line in, {"equal": bool} out.

Symbolic comparison can hang, recurse or eat memory; this process may be killed at any time, and
kills itself (SIGALRM, address-space limit) should its parent be gone.
"""

import json
import logging
import resource
import signal
import sys

MEMORY = 3 << 30
SECONDS = 30


def equal(gold: str, answer: str) -> bool:
    """Whether two LaTeX answers are equal; gold first, for `verify` is not symmetric.

    Raises ValueError if math-verify cannot read the gold answer.
    """
    from math_verify import parse, verify

    # Their timeouts (signal.alarm) are off: ours is the parent's clock.
    reference = parse(f"\\boxed{{{gold}}}", parsing_timeout=None)
    if not reference:
        raise ValueError(f"unreadable reference answer {gold!r}")
    parsed = parse(f"\\boxed{{{answer}}}", parsing_timeout=None)
    return bool(parsed) and bool(verify(reference, parsed, timeout_seconds=None))


def main() -> None:
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in iter(sys.stdin.readline, ""):
        signal.alarm(SECONDS)
        job = json.loads(line)
        result: dict[str, bool | str]
        try:
            result = {"equal": equal(job["gold"], job["answer"])}
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"[:200]}
        signal.alarm(0)
        answers.write(json.dumps(result) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
