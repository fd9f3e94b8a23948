"""Programs of several emulated hosts compile together, however loaded the machine is.

The first collective of a group of devices on CPUs connects their hosts, and waits 30 seconds for
that; no setting of XLA's changes it. (Later ones wait half an hour, and TPUs as long as it takes.)
A host may still be compiling then. So every program that spans hosts is compiled by all before one
runs it.
"""

import itertools

from jax._src import compiler, distributed

MILLISECONDS = 900_000


def compile_together():
    """Have all processes meet after each compilation of a program that spans processes."""
    compile_alone, numbers = compiler.compile_or_get_cached, itertools.count()

    def compile_and_meet(backend, computation, devices, *arguments, **options):
        executable = compile_alone(backend, computation, devices, *arguments, **options)
        if len({device.process_index for device in devices.flatten()}) > 1:
            name = f"compiled {next(numbers)}"
            distributed.global_state.client.wait_at_barrier(name, MILLISECONDS)
        return executable

    compiler.compile_or_get_cached = compile_and_meet
