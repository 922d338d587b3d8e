"""The digest of programs: each value that decides a result, wherever JAX puts it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax_settings import closed_over_arrays_as_arguments
from store_files import files_of

import nc_jax as nc
from nc_jax.configuration import digest_of_programs

PROBLEM = nc.ulpm(3, 4, 2)
TIMES = np.array([0.0, 1.0])


@pytest.fixture(params=[False, True], ids=["constants", "arguments"])
def closed_over_as(request):
    """Arrays that a function closes over as constants of a program, or as arguments of it."""
    with closed_over_arrays_as_arguments(request.param):
        yield


@pytest.fixture
def as_arguments():
    with closed_over_arrays_as_arguments(True):
        yield


def plain(array):
    return lambda x: x + array


def within_a_jit(array):
    return lambda x: jax.jit(lambda y: y * array)(x)


def within_a_branch(array):
    return lambda x: jax.lax.cond(x[0] > 0, lambda: x + array, lambda: x)


def within_a_loop(array):
    return lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y + array, x)


def within_a_derivative(array):
    @jax.custom_jvp
    def function(x):
        return x + array

    @function.defjvp
    def jvp(primals, tangents):
        return function(*primals), tangents[0]

    return function


def as_a_result(array):
    return lambda x: (x, jnp.asarray(array))


def as_a_key(array):
    key = jax.random.key(int(np.asarray(array).sum()))
    return lambda x: x + jax.random.normal(key, x.shape)


@pytest.mark.usefixtures("closed_over_as")
@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize(
    "make",
    [
        plain, within_a_jit, within_a_branch, within_a_loop, within_a_derivative, as_a_result,
        as_a_key,
    ],
)  # fmt: skip
def test_a_value_that_a_function_closes_over_is_in_its_digest(make, convert):
    def digest(values):
        function = make(convert(values))
        return digest_of_programs([jax.jit(function).trace(jnp.ones(3))])

    assert digest([1.0, 2.0, 3.0]) == digest([1.0, 2.0, 3.0])
    assert digest([1.0, 2.0, 3.0]) != digest([1.0, 2.0, 4.0])


@pytest.mark.usefixtures("closed_over_as")
def test_one_entry_of_a_large_array_is_in_the_digest():
    large = np.zeros(100_000)
    other = large.copy()
    other[50_000] = 1e-300
    digests = {
        digest_of_programs([jax.jit(lambda x, a=a: x + a.sum() * jnp.asarray(a)[3]).trace(1.0)])
        for a in (large, large.copy(), other)
    }
    assert len(digests) == 2


def run_from(start):
    # In a function that `run` calls, so that the values it is described by do not have the start.
    def make():
        return start

    return lambda key: nc.gradient_descent(PROBLEM, make(), optax.sgd(0.1), 2, observe=norm_only)


def norm_only(state):
    return {"norm": state.squared_norm()}


@pytest.mark.usefixtures("as_arguments")
def test_a_sweep_from_another_start_is_refused(tmp_path):
    one, other = (PROBLEM.init(jax.random.key(i)) for i in range(2))
    nc.sweep(run_from(one), 1, path=tmp_path / "a", progress=False)
    before = files_of(tmp_path / "a")
    with pytest.raises(ValueError, match="holds another sweep: program"):
        nc.sweep(run_from(other), 1, path=tmp_path / "a", progress=False)
    assert files_of(tmp_path / "a") == before


def observer(shift):
    def make():
        return shift

    return lambda state: {"shifted": state.squared_norm() + make()[0]}


@pytest.mark.usefixtures("as_arguments")
def test_a_flow_with_another_observer_is_refused(tmp_path):
    start = PROBLEM.init(jax.random.key(0))
    one, other = (observer(jnp.array([shift])) for shift in (1.0, 2.0))
    nc.Flow(PROBLEM, TIMES, observe=one)(start, path=tmp_path / "a")
    with pytest.raises(ValueError, match="holds another flow: program"):
        nc.Flow(PROBLEM, TIMES, observe=other)(start, path=tmp_path / "a")
