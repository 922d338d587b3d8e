"""Options of XLA, as far as its version has them."""

import functools

import jax


@functools.cache
def cpu_options(**options: bool | int | str) -> dict[str, bool | int | str]:
    """These options for `jax.jit` on a CPU if XLA knows them all, none otherwise or elsewhere.

    Example: `jax.jit(f, compiler_options=cpu_options(xla_cpu_prefer_vector_width=512))`.
    """
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options
