"""Settings of JAX that a user may have and the test session has not."""

import contextlib

import jax


@contextlib.contextmanager
def closed_over_arrays_as_arguments(wanted: bool):
    """Whether arrays that a function closes over are arguments of a program, or constants in it."""
    name = "jax_use_simplified_jaxpr_constants"
    before = jax.config.values[name]
    jax.config.update(name, wanted)
    try:
        yield
    finally:
        jax.config.update(name, before)
