"""What hosts say to each other, without a model: words, verdicts, and what is left of them.

python word_run.py
"""

import jax
from jax._src import distributed

from qwen3.run import join_hosts
from qwen3 import hosts
from qwen3.rewards import Problem
from qwen3.stages import rollouts


def verdicts(me):
    """Every answer is judged by one host, and all hear of it to the last bit."""
    judged = []

    def score(pairs):
        judged.extend(text for _, text in pairs)
        return [None if text == "5" else int(text) / 10 + me / 1000 for _, text in pairs]

    rollouts.score = score
    pairs = [(Problem("letters", [], {}), str(number)) for number in range(7)]
    scores = rollouts.shared_score(pairs)
    assert judged == [["0", "2", "4", "6"], ["1", "3", "5"]][me]
    assert scores == [0.0, 0.1 + 0.001, 0.2, 0.3 + 0.001, 0.4, None, 0.6]
    assert rollouts.shared_score([]) == []


def main():
    join_hosts()
    me, client = jax.process_index(), distributed.global_state.client
    assert hosts.decided(lambda: f"from {me}") == "from 0"
    assert hosts.gathered_words(f"of {me}") == ["of 0", "of 1"]
    verdicts(me)
    for _ in range(20):
        hosts.gathered_words("again")
    left = client.key_value_dir_get("qwen3/")
    assert len(left) <= 4, left
    print("done")


if __name__ == "__main__":
    main()
