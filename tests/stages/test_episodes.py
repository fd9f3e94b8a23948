"""Episodes of several turns on the engine and in GRPO: the same bits, however they run."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import post
import pytest
import talk_world
from scripted_backend import same_sequences

from qwen3 import rewards
from qwen3.curate.files import write_problems
from qwen3.data import rows
from qwen3.data.tokenizer import Tokenizer
from qwen3.environments import WORLDS
from qwen3.environments.agent_loop import Trajectory
from qwen3.environments.episode_answers import play
from qwen3.infer.engine import Engine
from qwen3.infer.requests import Request
from qwen3.losses.grpo import policy_gradient
from qwen3.losses.grpo_config import Grpo, preset
from qwen3.rewards.answers import prompt_ids
from qwen3.stages import grpo
from qwen3.stages.problem_evaluation import ProblemEvaluation
from qwen3.stages.prompts import Share
from qwen3.stages.rollouts import Rollout, Sampling, token_sequence
from qwen3.train.loop import Stopped

WRITTEN = talk_world.TURNS * (talk_world.SIZE + 1)  # tokens of the policy, <|im_end|> included


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(post.tokenizer_folder())


@pytest.fixture(autouse=True)
def talk(monkeypatch, tokenizer):
    post.one_device(monkeypatch, grpo)
    monkeypatch.setitem(rewards.TASKS, "letters", post.letters)
    talk_world.let_it_speak(monkeypatch, WORLDS, tokenizer, post.model().vocab)


def starts(tokenizer, count=5, samples=2):
    problems = [talk_world.WORLD.generate(seed) for seed in range(count)]
    return [
        (problem, copy)
        for number, problem in enumerate(problems)
        for copy in Request(prompt_ids(problem, tokenizer), prompt_id=number).samples(samples)
    ]


@pytest.fixture(scope="module")
def engine(tokenizer):
    """engine(**options) -> a new engine over the same random weights."""
    params = post.parameters(post.model())

    def make(**options):
        settings = {"slots": 4, "max_length": 128, "buckets": (64, 128), "block": 8}
        return Engine(post.model(), params, tokenizer=tokenizer, **settings | options)

    return make


def assert_same(one, other):
    """The same tokens, score and course; log-probabilities may differ in the last bits, as they do
    between KV caches of other lengths."""
    assert one.completion.tokens == other.completion.tokens
    assert one.completion.forced == other.completion.forced
    assert (one.score, one.transcript) == (other.score, other.transcript)
    np.testing.assert_allclose(one.completion.log_probs, other.completion.log_probs, atol=1e-5)


def test_an_episode_is_the_same_alone_in_a_batch_and_again(engine, tokenizer):
    together = play(engine(), tokenizer, starts(tokenizer, 3, 1))
    alone = play(engine(), tokenizer, starts(tokenizer, 3, 1)[1:2])
    assert_same(together[1], alone[0])
    assert len({tuple(answer.written) for answer in together}) == 3
    assert all(len(answer.written) == WRITTEN for answer in together)
    again = play(engine(), tokenizer, starts(tokenizer, 3, 1))
    for one, other in zip(together, again, strict=True):
        assert same_sequences(one.completion, other.completion)


def test_episodes_are_the_same_in_pages(engine, tokenizer):
    """Room for one conversation and a half; a turn goes on in the pages of the turns before it."""
    pages = engine(cache="paged", buckets=None, page_size=16, cache_tokens=192)
    together = play(pages, tokenizer, starts(tokenizer, 3, 1))
    for one, other in zip(
        together, play(engine(), tokenizer, starts(tokenizer, 3, 1)), strict=True
    ):
        assert_same(one, other)


@pytest.mark.parametrize("size", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_in_pages_an_episode_has_the_same_bits_alone_in_a_batch_and_preempted(
    engine, tokenizer, size
):
    """Log-probabilities too: what was decoded comes back from the host, see `host_pages`."""
    options = {"cache": "paged", "buckets": None, "page_size": size, "block": 2}
    begun = starts(tokenizer)
    together = play(engine(**options), tokenizer, begun)
    tight = engine(**options, cache_tokens=136, host_tokens=4096)
    preempted = play(tight, tokenizer, begun)
    assert tight.stats["pages_from_host"] > 0 and (size > 4 or tight.stats["preemptions"] > 0)
    for number, (one, other) in enumerate(zip(together, preempted, strict=True)):
        alone = play(engine(**options), tokenizer, begun[number : number + 1])[0]
        for same in (other, alone):
            assert same_sequences(one.completion, same.completion)
            assert (one.score, one.transcript) == (same.score, same.transcript)


def counts(answers, prompts):
    """(tokens that are new to the cache, tokens of all turns): what must be prefilled, and what is
    where every turn begins anew. prompts: requests of the first turns that share no prefill."""
    new = naive = sum(len(request.prompt) - 1 for request in prompts)
    for answer in answers:
        length = len(answer.completion.request.prompt)
        ends = [end for _, end in answer.transcript.turns]
        for end, (start, _) in zip(ends, answer.transcript.turns[1:], strict=False):
            new += start - end
            naive += length + start - 1
    return new, naive


CACHES = {"rows": {}, "paged": {"cache": "paged", "buckets": None, "page_size": 16}}


@pytest.mark.parametrize("form", ["rows", pytest.param("paged", marks=pytest.mark.slow)])
def test_a_turn_prefills_only_what_came_since_the_last_one(engine, tokenizer, monkeypatch, form):
    """More episodes than slots; what the policy wrote itself is in the KV cache already."""
    begun, goes_on = starts(tokenizer), engine(**CACHES[form])
    answers = play(goes_on, tokenizer, begun)
    new, naive = counts(answers, [request for _, request in begun[::2]])
    turns = sum(len(answer.transcript.turns) - 1 for answer in answers)
    # The places behind the last whole page are no page that could be shared.
    most = new + (15 * turns if form == "paged" else 0)
    assert new <= goes_on.stats["prefilled_tokens"] <= most < 0.7 * naive

    next_request = Trajectory.next_request
    monkeypatch.setattr(
        Trajectory, "next_request", lambda *args: replace(next_request(*args), turn=None)
    )
    anew = engine()
    for one, other in zip(answers, play(anew, tokenizer, begun), strict=True):
        assert_same(one, other)
    assert anew.stats["prefilled_tokens"] == naive


@pytest.mark.slow
def test_an_episode_is_the_same_after_preemption(engine, tokenizer):
    longest = max(len(request.prompt) for _, request in starts(tokenizer))
    # Room for four first turns until the second one of their tokens, then for one.
    tight = engine(cache_tokens=128, buckets=(longest + 2, 128))
    preempted = play(tight, tokenizer, starts(tokenizer))
    assert tight.stats["preemptions"] > 0
    for one, other in zip(play(engine(), tokenizer, starts(tokenizer)), preempted, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("config", [Grpo(), pytest.param(preset("gspo"), marks=pytest.mark.slow)])
def test_the_gradient_of_the_logits_is_exactly_0_where_the_environment_speaks(
    engine, tokenizer, config
):
    (answer,) = play(engine(), tokenizer, starts(tokenizer, 1, 1))
    rollout, vocab = Rollout(answer, advantage=0.7), post.model().vocab
    start, ids = len(answer.completion.request.prompt), answer.completion.tokens
    logits = jax.random.normal(jax.random.key(0), (1, start + len(ids) - 1, vocab))
    log_probs = np.asarray(jax.nn.log_softmax(logits))[0, start - 1 :]
    rollout.old_log_probs = [float(row[i]) for row, i in zip(log_probs, ids, strict=True)]
    sequence = token_sequence(rollout, policy=True)
    layout = rows.layout([len(sequence)], len(sequence))
    batch = rows.fill([sequence], layout, len(sequence), pad=tokenizer.pad, rows=1)

    def apply(params, *_):
        return SimpleNamespace(hidden_BTD=params, head_VD=jnp.eye(vocab), router=None)

    gradient = jax.grad(lambda x: policy_gradient(apply, x, batch, (), config=config)[0])(logits)
    moved = np.abs(np.asarray(gradient[0])).max(axis=-1) > 0
    forced = np.array(answer.completion.forced)
    in_prompt = np.zeros(start - 1, bool)
    np.testing.assert_array_equal(moved, np.concatenate([in_prompt, ~forced]))
    assert np.all(np.asarray(gradient[0])[~moved] == 0) and moved.sum() == WRITTEN


def config(**changes):
    values = dict(
        tasks=(Share("talk"), Share("letters", 0.5)),
        sampling=Sampling(samples=8, max_tokens=24, slots=16),
        prompts=6,
        minibatches=2,
        length=127,
        steps=12,
        policy=Grpo(old="recomputed"),
        optim=replace(post.CONSTANT, peak=1e-2),
    )
    return post.grpo_config(**{**values, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer):
    """(config, workdir, last state) of a run on a world and a task together."""
    work = tmp_path_factory.mktemp("episodes")
    problems = [talk_world.WORLD.generate(seed, split="heldout") for seed in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        talk_world.let_it_speak(patch, WORLDS, tokenizer, post.model().vocab)
        patch.setitem(rewards.TASKS, "letters", post.letters)
        post.one_device(patch, grpo)
        write_problems(work / "held_out.jsonl", problems)
        evaluation = ProblemEvaluation(str(work / "held_out.jsonl"), every=6)
        chosen = config(evaluation=evaluation)
        return chosen, work / "run", grpo.run(chosen, work / "run")


def test_grpo_learns_over_several_turns_and_sampler_and_trainer_agree(whole):
    lines = post.records(whole[1])
    phases = [line for line in lines if "score/talk" in line]
    assert max(line["sync_max"] for line in phases) < 1e-4
    assert phases[-1]["score/talk"] > phases[0]["score/talk"]
    assert {line["stop/answered"] for line in phases} == {1.0}
    assert {line["turns"] for line in phases} == {talk_world.TURNS}
    assert {line["calls"] for line in phases} == {0.0}


def test_samples_and_held_out_episodes_can_be_read_without_the_program(whole):
    folder = whole[1] / "samples"
    lines = [json.loads(line) for line in (folder / "000000.jsonl").read_text().splitlines()]
    line = next(line for line in lines if line.get("task") == "talk")
    assert line["stop"] == "answered" and line["turns"] == 3 and line["tokens"] == WRITTEN
    assert line["answer"].count(f"<|im_start|>user\n{talk_world.MORE}<|im_end|>") == 2
    assert line["score"] is not None and line["reward"] is not None
    measured = [
        json.loads(line) for line in (whole[1] / "evaluation.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in measured] == [0, 6, 12]
    assert {row["tokens"] for row in measured} == {WRITTEN}


@pytest.mark.slow
def test_a_run_stopped_within_a_phase_goes_on_bitwise(whole, tmp_path):
    chosen, work, last = whole
    with post.stopping_at(3), pytest.raises(Stopped):
        grpo.run(chosen, tmp_path / "again")
    again = grpo.run(chosen, tmp_path / "again")
    post.assert_same_trees(last, again)
    assert post.records(work) == post.records(tmp_path / "again")


def test_a_world_that_cannot_run_here_is_refused_before_anything_is_sampled(monkeypatch, tmp_path):
    def require():
        raise RuntimeError("no sandbox here")

    monkeypatch.setitem(WORLDS, "talk", replace(talk_world.WORLD, require=require))
    monkeypatch.setattr(Engine, "__init__", None)
    with pytest.raises(RuntimeError, match="no sandbox here"):
        grpo.run(config(), tmp_path / "run")


@pytest.mark.parametrize("form", ["rows", pytest.param("paged", marks=pytest.mark.slow)])
def test_episodes_are_sampled_ahead_and_the_trainer_knows_each_tokens_weights(tmp_path, form):
    """Over new weights a conversation is read anew by them; the trainer agrees with the sampler on
    what the newest weights wrote.
    """
    sampling = replace(config().sampling, samples=4, slots=8, cache=form, block=4)
    grpo.run(config(staleness=3, steps=8, sampling=sampling), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    phases = [line for line in lines if "staleness_most" in line]
    assert phases[0]["staleness_most"] < max(p["staleness_most"] for p in phases) <= 3
    assert all(phase["sync_max"] < 1e-4 for phase in phases)
    assert all(0.5 < line["correction"] <= 2.0 for line in lines)
    answers = [
        json.loads(line)
        for file in sorted(tmp_path.glob("samples/*.jsonl"))
        for line in file.read_text().splitlines()[:-1]
    ]
    talks = [answer for answer in answers if answer["task"] == "talk"]
    assert {answer["stop"] for answer in talks} == {"answered"}
    assert any(len(answer["versions"]) > 1 for answer in talks)
    assert len({(a["prompt_id"], a["sample"]) for a in answers}) == len(answers)


@pytest.mark.slow
def test_a_run_of_episodes_ahead_that_is_stopped_trains_on_each_prompt_once(tmp_path):
    sampling = replace(config().sampling, samples=4, slots=8, block=4)
    chosen = config(staleness=3, steps=8, sampling=sampling)
    with post.stopping_at(3), pytest.raises(Stopped):
        grpo.run(chosen, tmp_path)
    grpo.run(chosen, tmp_path)
    files = sorted(tmp_path.glob("samples/*.jsonl"))
    trained = [json.loads(file.read_text().splitlines()[-1])["trained"] for file in files]
    numbers = sum(trained, [])
    assert len(trained) == 4 and len(set(numbers)) == len(numbers) > 0
