"""Asynchronous phases without a model: a backend that writes one token of every answer a block."""

import json
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import post
import pytest
import talk_world

from qwen3 import environments, rewards
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.requests import Completion
from qwen3.losses.grpo_config import Grpo
from qwen3.rewards.answers import score
from qwen3.stages import grpo, phases
from qwen3.stages.async_rollouts import AsyncCollect, StreamingSampler
from qwen3.stages.groups import NothingToLearn, Refill, Scoring
from qwen3.stages.prompts import Prompts, Share
from qwen3.stages.rollout_metrics import PhaseMetrics
from qwen3.stages.rollouts import Sampling
from qwen3.train.preemption import Stopped

FLAT = {1, 6, 7, 15}  # prompts whose answers are all equally good


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(post.tokenizer_folder())


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.setitem(rewards.TASKS, "letters", post.letters)
    monkeypatch.setitem(environments.WORLDS, "talk", talk_world.WORLD)


class Backend:
    """Writes a token of each of `slots` answers a block, the older requests first."""

    max_length = 512

    def __init__(self, tokenizer, version, *, flat=FLAT, slots=5):
        self.tokenizer, self.version, self._flat, self._slots = tokenizer, version, flat, slots
        self.states, self.blocks = [], 0

    def submit(self, requests):
        states = [State(request, self._ids(request)) for request in requests]
        self.states += states
        return states

    def _ids(self, request):
        good = "x" if request.prompt_id in self._flat or request.sample % 2 else "ee"
        length = 2 + 7 * request.prompt_id % 5 + request.sample
        if request.turn is None:
            return (self.tokenizer.encode(good) * length)[:length]
        return [*self.tokenizer.encode(good), self.tokenizer.im_end]  # a turn of an episode

    def step(self):
        self.blocks += 1
        for state in [state for state in self.states if not state.done][: self._slots]:
            state.write(self.version)

    def update(self, params, version):
        assert params == f"weights {version}"
        self.version = version

    def abort(self, states):
        raise AssertionError

    generate = stream = abort  # of the interface, and not used


class State:
    expert_ids = ()

    def __init__(self, request, ids):
        self.completion, self._ids = Completion(request), ids

    @property
    def done(self):
        return self.completion.finish is not None

    def write(self, version):
        completion = self.completion
        completion.tokens.append(self._ids[len(completion.tokens)])
        completion.log_probs.append(-1.0)
        completion.forced.append(False)
        completion.versions.append(version)
        if len(completion.tokens) == len(self._ids):
            completion.finish = "stop"


class Step(int):
    """The number of an optimizer step that takes so many looks."""

    def __new__(cls, value, looks):
        self = super().__new__(cls, value)
        self.looks = looks
        return self

    def is_ready(self):
        self.looks -= 1
        return self.looks < 0


class Run:
    """A source of asynchronous GRPO over a `Backend`, and what it gave to each step."""

    def __init__(self, tokenizer, folder, *, staleness=1, minibatches=1, stored=None, **changes):
        config = post.grpo_config(
            prompts=4,
            minibatches=minibatches,
            staleness=staleness,
            sampling=Sampling(samples=2, max_tokens=32, slots=8),
            scoring=Scoring(scale="none"),
            refill=Refill(rounds=3),
            alarms=grpo.Alarms(mismatch=1.0),
        )
        shares = changes.pop("tasks", (Share("letters"),))
        self.folder, self.backend, self.report = folder, None, PhaseMetrics(dict)
        batches = SimpleNamespace(
            values=lambda function, params, sequences: [
                np.full(len(sequence.tokens), -1.25) for sequence in sequences
            ]
        )
        method = grpo.RewardedPhase(config, batches, None, lambda state: None)
        self.collect = AsyncCollect(
            Prompts(shares, tokenizer, seed=0),
            StreamingSampler(
                lambda state: self._begin(tokenizer, state.steps, **changes),
                lambda state: f"weights {state.steps}",
                config.sampling,
                score,
                overlaps=True,
            ),
            method,
            staleness=staleness,
            wanted=4,
            least=minibatches,
            tokenizer=tokenizer,
            work=SimpleNamespace(samples=folder),
            report=self.report,
        )
        self.source = phases.RolloutSource(self.collect, list, stored)

    def _begin(self, tokenizer, version, **changes):
        self.backend = Backend(tokenizer, version, **changes)
        return self.backend

    def batches(self, steps, first=0, looks=3):
        """The minibatches of these steps, each of which takes so many blocks of the backend."""
        return [
            self.source(SimpleNamespace(step=Step(first + i, looks), steps=first + i, params=None))
            for i in range(steps)
        ]

    def metrics(self, step):
        return self.report._pending[step + 1]

    def samples(self, step):
        lines = (self.folder / f"{step:06d}.jsonl").read_text().splitlines()
        return list(map(json.loads, lines))


def prompts_of(batches):
    return [number for batch in batches for number in dict.fromkeys(r.prompt for r in batch)]


def ages(batches, first=0):
    return [
        first + step - version
        for step, batch in enumerate(batches)
        for rollout in batch
        for version in rollout.completion.versions
    ]


@pytest.mark.parametrize("staleness, minibatches", [(1, 1), (2, 1), (2, 2), (3, 2), (5, 2)])
def test_no_token_is_older_than_the_bound_and_prompts_come_in_turn(
    tokenizer, tmp_path, staleness, minibatches
):
    run = Run(tokenizer, tmp_path, staleness=staleness, minibatches=minibatches)
    batches = run.batches(12)
    numbers = prompts_of(batches)
    learnable = [number for number in range(max(numbers) + 1) if number not in FLAT]
    assert sorted(numbers) == learnable  # none is left out, none comes twice
    for step in range(0, 12, minibatches):  # dealt out to the minibatches of a phase
        part = sorted(prompts_of(batches[step : step + minibatches]))
        assert part == learnable[4 * step // minibatches :][:4]
    assert 0 < max(ages(batches)) <= staleness
    most = max(run.metrics(step)["staleness_most"] for step in range(0, 12, minibatches))
    assert most == max(ages(batches))


def test_answers_go_on_over_new_weights_and_keep_each_tokens_version(tokenizer, tmp_path):
    run = Run(tokenizer, tmp_path, staleness=2)
    batches = run.batches(8)
    versions = [r.completion.versions for batch in batches for r in batch]
    assert any(len(set(answer)) > 1 for answer in versions)
    assert all(answer == sorted(answer) for answer in versions)
    lines = [line for step in range(8) for line in run.samples(step)[:-1]]
    written = {(line["prompt_id"], line["sample"]): line["versions"] for line in lines}
    for rollout in (r for batch in batches for r in batch):
        runs = written[rollout.prompt, rollout.completion.request.sample]
        flat = [version for version, count in runs for _ in range(count)]
        assert flat == rollout.completion.versions
    assert {line["prompt_id"] for line in lines} >= FLAT & set(range(16))


def test_the_next_phase_is_sampled_while_this_one_trains(tokenizer, tmp_path):
    fast, slow = Run(tokenizer, tmp_path / "fast"), Run(tokenizer, tmp_path / "slow")
    fast.batches(6, looks=0)
    slow.batches(6, looks=100)
    assert [slow.metrics(step)["carried_in"] for step in range(1, 6)] == [4] * 5
    assert fast.metrics(5)["carried_in"] < 4
    assert slow.metrics(5)["staleness_tokens"] == 1.0 > fast.metrics(5)["staleness_tokens"]


@pytest.mark.parametrize("tasks", [(Share("letters"),), (Share("letters"), Share("talk"))])
@pytest.mark.parametrize("at", range(1, 7))
def test_a_killed_run_loses_and_repeats_no_prompt(tokenizer, tmp_path, at, tasks):
    options = {"staleness": 3, "minibatches": 2, "tasks": tasks}
    first = Run(tokenizer, tmp_path, **options)
    before = first.batches(at)
    stored = json.loads(json.dumps(first.source.extra()))
    flying = set(first.collect._flying)
    first.batches(2, first=at)  # lost with the process
    again = Run(tokenizer, tmp_path, **options, stored=stored)
    after = again.batches(12 - at, first=at)
    numbers = prompts_of(before + after)
    assert sorted(numbers) == [n for n in range(max(numbers) + 1) if n not in FLAT]
    assert max(ages(before + after)) <= 3
    # What was on its way is sampled again, by the weights that are there now.
    versions = {r.prompt: r.version for batch in after for r in batch}
    assert flying and all(versions[number] >= at for number in flying & set(versions))
    trained = [again.samples(step)[-1]["trained"] for step in range(0, 12, 2)]
    assert sum(trained, []) == sorted(numbers)
    lines = [line for step in range(0, 12, 2) for line in again.samples(step)[:-1]]
    assert len({(line["prompt_id"], line["sample"]) for line in lines}) == len(lines)


def test_a_stop_signal_in_a_block_loses_nothing(tokenizer, tmp_path, monkeypatch):
    run, step, told = Run(tokenizer, tmp_path), Backend.step, []

    def stopped(self):
        told.append(1)
        if len(told) == 12:
            raise Stopped
        step(self)

    monkeypatch.setattr(Backend, "step", stopped)
    batches = []
    with pytest.raises(Stopped):
        for i in range(20):
            batches += run.batches(1, first=i)
    again = Run(tokenizer, tmp_path, stored=run.source.extra())
    batches += again.batches(5, first=len(batches))
    numbers = prompts_of(batches)
    assert numbers == [n for n in range(max(numbers) + 1) if n not in FLAT]


def test_prompts_without_a_difference_end_after_the_rounds(tokenizer, tmp_path):
    run = Run(tokenizer, tmp_path, flat=range(1000))
    with pytest.raises(NothingToLearn, match="24 prompts gave 0 groups"):
        run.batches(1)
    assert len(run.samples(0)) == 24 * 2  # two phases ahead, three rounds of four


def test_a_probe_compares_sampler_and_trainer_where_all_answers_are_stale(tokenizer, tmp_path):
    run = Run(tokenizer, tmp_path, staleness=2)
    run.batches(8, looks=4)
    probed = [step for step in range(8) if "sync_max" in run.metrics(step)]
    assert probed == list(range(8))
    assert all(run.metrics(step)["sync_max"] == 0.25 for step in probed)


MIXTURE = (Share("letters"), Share("talk"))


def episodes(batches):
    return [r for batch in batches for r in batch if r.answer.transcript is not None]


@pytest.mark.parametrize("staleness, minibatches", [(1, 1), (2, 2), (3, 2)])
def test_episodes_run_ahead_of_the_trainer_within_the_bound(
    tokenizer, tmp_path, staleness, minibatches
):
    run = Run(tokenizer, tmp_path, staleness=staleness, minibatches=minibatches, tasks=MIXTURE)
    batches = run.batches(12, looks=12)
    numbers = prompts_of(batches)
    assert sorted(numbers) == [n for n in range(max(numbers) + 1) if n not in FLAT]
    assert max(ages(batches)) == staleness  # of episodes' tokens too
    played = episodes(batches)
    assert 20 < len(played) < sum(map(len, batches))
    assert all(r.answer.transcript.stop == "answered" for r in played)
    assert {len(r.answer.transcript.turns) for r in played} == {talk_world.TURNS}
    carried = [run.metrics(step)["carried_in"] for step in range(minibatches, 12, minibatches)]
    assert max(carried) > 0  # sampled while the phase before was trained on


def test_an_episode_goes_on_over_new_weights_and_each_token_has_its_version(tokenizer, tmp_path):
    run = Run(tokenizer, tmp_path, staleness=2, tasks=MIXTURE)
    batches = run.batches(8)
    played = episodes(batches)
    assert any(len(set(r.completion.versions)) > 1 for r in played)
    for rollout in played:
        completion, turns = rollout.completion, rollout.answer.transcript.turns
        assert len(completion.versions) == len(completion.tokens) == len(completion.forced)
        assert completion.versions == sorted(completion.versions)
        for (_, end), (start, _) in zip(turns, turns[1:], strict=False):
            assert all(completion.forced[end:start]) and start > end
            assert set(completion.versions[end:start]) == {completion.versions[end - 1]}
    # What the backend wrote, it wrote with the version that the token says.
    written = {(r.prompt, r.completion.request.sample): r for r in played}
    for state in run.backend.states:
        request = state.completion.request
        rollout = written.get((request.prompt_id, request.sample))
        if rollout is not None:
            start, end = rollout.answer.transcript.turns[request.turn]
            assert rollout.completion.versions[start:end] == state.completion.versions


def test_a_slow_environment_is_not_waited_for_while_the_trainer_works(
    tokenizer, tmp_path, monkeypatch
):
    """It answers only after the sampler has looked at the trainer, which it does between blocks."""
    open_, is_ready = threading.Event(), Step.is_ready

    def late(problem, state, turns):
        assert open_.wait(5), "the sampler waits for the environment"
        return talk_world.reply(problem, state, turns)

    def looked(step):
        ready = is_ready(step)
        if ready:
            open_.set()
        return ready

    world = replace(talk_world.WORLD, slow=True, reply=late)
    monkeypatch.setitem(environments.WORLDS, "talk", world)
    monkeypatch.setattr(Step, "is_ready", looked)
    run = Run(tokenizer, tmp_path, staleness=2, tasks=(Share("talk"),))
    open_.set()
    batches = run.batches(1)
    for step in range(1, 4):
        open_.clear()
        batches += run.batches(1, first=step, looks=30)
    numbers = prompts_of(batches)
    assert numbers == [n for n in range(max(numbers) + 1) if n not in FLAT]
    assert {r.answer.transcript.stop for r in episodes(batches)} == {"answered"}
    assert 0 < max(ages(batches)) <= 2


def test_episodes_are_probed_by_the_turn_that_is_being_written(tokenizer, tmp_path):
    run = Run(tokenizer, tmp_path, staleness=2, tasks=(Share("talk"),))
    run.batches(6, looks=4)
    probed = [run.metrics(step)["sync_max"] for step in range(6)]
    assert probed == [0.25] * 6


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"staleness": -1}, "staleness -1"),
        (
            {"staleness": 1, "minibatches": 2},
            "staleness 1 with 2 minibatches: it is 0, or at least",
        ),
    ],
)
def test_a_bound_that_no_phase_can_keep_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        post.grpo_config(**changes)


def test_a_block_of_no_token_is_refused():
    with pytest.raises(ValueError, match="block of .*block=0.* must be at least 1"):
        Sampling(block=0)


def test_stale_samples_are_corrected_for_unless_a_setting_does_it():
    plain = post.grpo_config()
    assert plain.objective is plain.policy
    assert post.grpo_config(staleness=1).objective == Grpo(tis_cap=2.0)
    own = Grpo(token_band=(0.5, 5.0))
    assert post.grpo_config(staleness=1, policy=own).objective == own
    ratio = Grpo(old="rollout")  # corrects by its own ratio
    assert post.grpo_config(staleness=1, policy=ratio).objective == ratio
    gspo = dict(ratio="sequence", aggregation="sequences", clip_low=3e-4, clip_high=4e-4)
    with pytest.raises(ValueError, match="staleness 1 with policy.ratio 'sequence' needs a corr"):
        post.grpo_config(staleness=1, policy=Grpo(**gspo))
