"""Plans for TPU slices on a machine without a TPU: memory, FLOPs, traffic, predicted step time."""
