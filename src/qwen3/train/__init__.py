"""Training: state, optimizer, step, loop, checkpoints, and the workdir that a run leaves."""
