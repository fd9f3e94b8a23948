#!/usr/bin/env python3
"""A TPU pod from its request to its end; launch/README.md shows every command.

    launch/pod.py VERB RUN.env [--dry-run] [--yes]

Exit codes: 0 done, or running well; 1 the run failed; 2 refused, which is said in one line; 3 the
pod is absent or lost; 4 a host hangs.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from argparse import Namespace

from pods import bucket
from pods.command import NotNow, Refused, call, dry
from pods.run import Run, archive, commit, quote


def plan(run: Run, options: Namespace) -> int:
    """What the pod is, whether the step fits, what it may cost, and the commands that follow."""
    fits, words = (True, "a dry run: nothing is compiled") if run.dry else quote(run)
    print(words)
    run = Run(run.file, dry)
    up(run, options)
    start(run, options)
    return int(not fits)


def up(run: Run, options: Namespace) -> int:
    """Bring the pod up, whatever its state, and wait until all of its hosts are there."""
    commit(run)
    bucket.check(run)
    state, began = run.backend.state(run), time.monotonic()
    fits, words = quote(run, "--brief") if state.kind == "absent" and not run.dry else (True, "")
    if not fits:
        raise Refused(words)
    if state.kind == "lost":
        _say(run, f"lost, {state.why}: deleting what is left")
        bucket.note(run, "lost")
        run.backend.down(run)
    if state.kind in ("lost", "absent"):
        bucket.write(run, "pod/stop", "")
        run.backend.up(run)
        bucket.write(run, "pod/run.env", run.host_lines)
        bucket.note(run, "up")
    while (state := run.backend.state(run)).kind != "active" and not run.dry:
        minutes = (time.monotonic() - began) / 60
        if state.kind != "waiting" or minutes > 60 * run.WAIT_HOURS:
            raise NotNow(f"{state.kind}: {state.why or 'no capacity came'}")
        _say(run, f"waiting for {minutes:.0f} min {state.why}")
        time.sleep(run.POLL_SECONDS)
    if not (run.dry or bucket.verdict(run).active):
        bucket.note(run, "active")
    _say(run, f"active: {run.chips} chips on {len(run.hosts)} hosts")
    return 0


def start(run: Run, options: Namespace) -> int:
    """Bring the commit to all hosts and have each keep the run's process alive."""
    name = f"code-{commit(run)}"
    bucket.check(run)
    if (state := run.backend.state(run)).kind != "active" and not run.dry:
        raise Refused(f"the pod is {state.kind} {state.why}: pod.py up brings it up")
    with tempfile.TemporaryDirectory() as folder:
        run.backend.copy(run, archive(run, folder))
    bucket.write(run, "pod/stop", "")
    home = f"qwen3/{run.RUN}"
    unpack = f"mkdir -p {home}/{name} && tar -xzf qwen3-{run.RUN}.tgz -C {home}/{name}"
    before = f"{unpack} && ln -sfn {name} {home}/code && "
    _worker(run, "setup", "ready running", before, calls=6)
    answers = _worker(run, "start", "started running")
    bucket.note(run, "run")
    already = sum(words.startswith("running") for words in answers.values())
    _say(run, f"started on {len(answers) - already} hosts, was running on {already}")
    return 0


def watch(run: Run, options: Namespace) -> int:
    """up and run, and again whenever hosts are lost, until the run ends or reaches a limit."""
    if bucket.verdict(run).ended != "done":
        bucket.note(run, "watch")  # how an earlier start ended counts no more
        _again(run, options)
    while not (status := bucket.verdict(run)).ended:
        state = run.backend.state(run)
        if status.limit:
            _say(run, f"{status.limit}: stopping")
            with contextlib.suppress(NotNow):
                stop(run, options)
            break
        if state.kind != "active" or status.absent:
            silent = ", ".join(status.absent) or "none"
            _say(run, f"{state.kind} {state.why}; no word from {silent}")
            _again(run, options)
        time.sleep(run.POLL_SECONDS)
    show(run, options)
    if options.yes:
        down(run, options)
    return int(status.ended == "failed")


def _again(run: Run, options: Namespace) -> None:
    try:
        up(run, options)
        start(run, options)
    except NotNow as error:
        _say(run, f"{error}; trying again")


def show(run: Run, options: Namespace) -> int:
    """The status in the terminal; --html FILE writes it as a page too."""
    state, status = run.backend.state(run), bucket.verdict(run)
    title = f"{run.RUN}: {run.SLICES} x {run.TYPE} {state.kind} {state.why}".strip()
    print(title, status.text, sep="\n")
    if options.html:
        bucket.status(run, f"--html={options.html}", f"--title={title}")
    if status.ended or run.dry:
        return int(status.ended == "failed")
    return 3 if state.kind != "active" else 4 if status.hung else 0


def logs(run: Run, options: Namespace) -> int:
    """The newest log of a host; --first-error: what went wrong first, over all hosts."""
    what = "--first-error" if options.first_error else f"--log={options.host}"
    print(bucket.status(run, what), end="")
    return 0


def stop(run: Run, options: Namespace) -> int:
    """Have all processes save and leave; the chips stay, and are billed."""
    bucket.write(run, "pod/stop", "user")
    _worker(run, "stop", "stop")
    deadline = time.monotonic() + run.STOP_SECONDS + 60
    while not run.dry and bucket.verdict(run).absent != run.hosts:
        if time.monotonic() > deadline:
            _worker(run, "kill", "kill")
            break
        time.sleep(min(run.POLL_SECONDS, 10))
    _say(run, "stopped; the chips are still there and billed until pod.py down")
    return 0


def down(run: Run, options: Namespace) -> int:
    """Delete the pod, after a question or with --yes; the bucket keeps everything."""
    if run.backend.state(run).kind == "absent" and not run.dry:
        _say(run, "there is no pod")
        return 0
    words = f"{run.SLICES} x {run.TYPE} of {run.RUN}, ${run.dollars_an_hour:,.2f} an hour"
    if not (options.yes or run.dry):
        print(f"delete {words}? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip() != "y":
            raise Refused("not deleted")
    run.backend.down(run)
    bucket.note(run, "down")
    _say(run, "deleted")
    return 0


def sweep(run: Run, options: Namespace) -> int:
    """What is billed in the zone; pods of ours whose hosts fell silent are deleted with --yes."""
    for name, owner, words in run.backend.billed(run):
        other = Run(run.file, run.command, f"RUN={owner or run.RUN}")
        silence = (time.time() - bucket.verdict(other).last_word) / 3600 if owner else 0.0
        orphan = owner and 1 < silence < 1e5  # without any word, it is a run of another bucket
        print(f"{name}: {words}, run {owner or '-'}{', silent: an orphan' if orphan else ''}")
        if orphan and options.yes:
            run.backend.down(other)
    return 0


def _worker(run: Run, verb: str, accept: str, before: str = "", calls: int = 1) -> dict[str, str]:
    """Have worker.sh do something on all hosts, again while some do not answer; what each said.

    Refused names those that did not answer, or said another word than `accept` allows.
    """
    line = f"{before}bash qwen3/{run.RUN}/code/launch/worker.sh {verb}"
    answers: dict[str, str] = {}
    for _ in range(1 if run.dry else 3):
        answers |= run.backend.everywhere(run, line, calls * run.CALL_SECONDS)
        silent = [host for host in run.hosts if host not in answers]
        if not silent:
            break
    if silent and not run.dry:
        count = f"{len(run.hosts) - len(silent)} of {len(run.hosts)} hosts answered"
        raise NotNow(f"{count}, not {', '.join(silent)}: again, or down and up")
    for host, words in sorted(answers.items()):
        word, owner = (*words.split(), "", "")[:2]
        if word not in accept.split() or (word == "running" and owner != run.RUN):
            raise Refused(f"host {host}: {words}")
    return answers


def _say(run: Run, line: str) -> None:
    if not run.dry:
        print(f"{run.RUN}: {line}", flush=True)


VERBS = {"plan": plan, "up": up, "run": start, "watch": watch, "status": show}
VERBS |= {"logs": logs, "stop": stop, "down": down, "sweep": sweep}


def main() -> int:
    """Read the command line and do what the verb says."""
    parser = argparse.ArgumentParser(description="; ".join(__doc__.splitlines()[:1]))
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("file", metavar="RUN.env", type=os.path.abspath)
    parser.add_argument("host", nargs="?", default="0.0", help="logs: SLICE.HOST")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    parser.add_argument("--yes", action="store_true", help="no question; watch: down at the end")
    parser.add_argument("--html", type=os.path.abspath, help="status: write a page")
    parser.add_argument("--first-error", action="store_true", help="logs: what went wrong first")
    options = parser.parse_args()
    try:
        run = Run(options.file, dry if options.dry_run else call)
        return VERBS[options.verb](run, options)
    except (Refused, OSError) as error:
        print(f"pod.py {options.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pod.py: interrupted; what is up stays up, and is billed until pod.py down")
        return 130


if __name__ == "__main__":
    sys.exit(main())
