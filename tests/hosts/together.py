"""Programs of several emulated hosts are compiled once, and all have them before one runs them.

Only the first process writes to the compile cache; so it compiles what spans processes, and
hands the executable to the others.

The first collective of a group of devices on CPUs connects their hosts, and waits 30 seconds for
that; no setting of XLA's changes it. (Later ones wait half an hour, and TPUs as long as it takes.)
A host may still be loading the program then. So all meet before one goes on.
"""

import itertools

from jax._src import compiler, distributed

MILLISECONDS = 900_000


def compile_together():
    """Have the first process compile what spans processes, for all, in the order of programs."""
    compile_alone, numbers = compiler.compile_or_get_cached, itertools.count()

    def compile_and_share(backend, computation, devices, options, callbacks, to, *more):
        if len({device.process_index for device in devices.flatten()}) == 1:
            return compile_alone(backend, computation, devices, options, callbacks, to, *more)
        client, name = distributed.global_state.client, f"program {next(numbers)}"
        if distributed.global_state.process_id == 0:
            # Not by the compile cache: what was loaded from there cannot be handed on whole.
            executable = compiler.backend_compile_and_load(
                backend, computation, to, options, callbacks
            )
            client.key_value_set_bytes(name, backend.serialize_executable(executable))
        else:
            binary = client.blocking_key_value_get_bytes(name, MILLISECONDS)
            executable = backend.deserialize_executable(binary, to, options)
        client.wait_at_barrier(f"all have {name}", MILLISECONDS)
        return executable

    compiler.compile_or_get_cached = compile_and_share
