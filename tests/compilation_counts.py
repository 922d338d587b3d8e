"""Counts of what JAX compiles: programs by JAX's events, operations by their text."""

import contextlib
from collections.abc import Iterator

import jax


class Counts:
    """Number of programs compiled inside of the block."""

    compiled = 0


@contextlib.contextmanager
def counted() -> Iterator[Counts]:
    """Count the programs that JAX compiles inside of the block."""
    counts = Counts()

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        counts.compiled += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield counts
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def lines_of(function, *arguments) -> list[str]:
    """Lines of the compiler's input for a function of arrays."""
    # A flow holds arrays, which jit could not hash.
    return jax.jit(lambda *inputs: function(*inputs)).lower(*arguments).as_text().splitlines()
