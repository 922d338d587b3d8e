"""The programs of this folder: JAX stores none that calls back to the host."""

from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import pytest
from landscape_points import DECAY

import nc_jax as nc
from nc_jax import landscape
from nc_jax.landscape import density, search
from nc_jax.landscape.domains import domain_of

SMALL, LARGE = nc.zhu(3, 3, 2, DECAY), nc.zhu(10, 20, 60, DECAY)
KEY = jax.random.key(0)
START = SMALL.init(KEY)


def lowered(function: Any, *arguments: Any) -> str:
    return function.lower(*arguments).as_text()


# Without the setting of JAX that it is called under.
CLASSIFY = vars(landscape.classify)["__wrapped__"]
PROGRAMS = {
    "classify": lambda: lowered(CLASSIFY, SMALL, START),
    "classify by Lanczos": lambda: lowered(CLASSIFY, LARGE, LARGE.init(KEY)),
    "find_critical_points": lambda: lowered(
        search._search_from_starts, SMALL, jax.random.split(KEY, 2), None, jnp.asarray(4.0), 10
    ),
    "spectral_density": lambda: lowered(
        density._spectral_density, domain_of(SMALL), START, KEY, 2, 4, None, 5, jnp.zeros(())
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_has_no_callback_to_the_host(name):
    text = PROGRAMS[name]()
    assert "custom_call" in text  # of LAPACK
    assert "callback" not in text


@pytest.mark.parametrize(
    ("run", "limit"),
    [
        # Beside the search, those of constants in its solver.
        (lambda: landscape.find_critical_points(SMALL, jax.random.split(KEY, 2), max_steps=10), 5),
        (lambda: landscape.spectral_density(SMALL, START, KEY, num_probes=2, num_steps=4), 2),
        (lambda: landscape.extreme_eigenpairs(SMALL, START), 2),
    ],
    ids=["find_critical_points", "spectral_density", "extreme_eigenpairs"],
)
def test_a_call_compiles_one_program_and_few_small_ones(run, limit):
    jax.random.split(KEY, 2)
    names = []

    def count(event, duration_secs, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        run()
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert 1 <= len(names) <= limit
