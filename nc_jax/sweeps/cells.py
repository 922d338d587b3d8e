"""The runs of one setting of a grid: call the user's function, check it, and trace it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PyTree

from ..configuration import described, digest_of_programs
from ..dynamics import Flow
from ..trajectory import Trajectory, variables_of

# The types that a user's function may return for one seed.
Outcome = Trajectory | Flow | tuple[Flow, PyTree] | tuple[Flow, PyTree, PyTree]
RunFunction = Flow | Callable[..., Outcome]
PreparedRun = Trajectory | tuple[Flow, PyTree, PyTree]
FloatArguments = Mapping[str, float | Array]


class RunOutputs(NamedTuple):
    """The results of a run that a sweep uses: arrays of JAX in a program, of NumPy on the host.

    Attributes:
        variables: of the data set, by name: observables, saved states, and how the run ended.
        axis: (T,) values along the axis of the observables: log(1 + t) or steps.
        succeeded: whether the run reached its end. A run of a block that did not is computed again
            alone.
    """

    variables: dict[str, Any]
    axis: Any
    succeeded: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One cell of a grid: the setting of its runs, and its place (indices) along the grid's axes.

    Floats of the setting are arguments of the compiled programs, so that cells that differ in
    floats alone share their programs. All other values are constants of the program.
    """

    run: RunFunction
    key: Key[Array, ""]
    place: tuple[int, ...]
    setting: Mapping[str, Any]

    @property
    def floats(self) -> dict[str, float]:
        """The floats of the setting, which the compiled programs take as arguments."""
        return {name: value for name, value in self.setting.items() if isinstance(value, float)}

    @property
    def program_name(self) -> str:
        """A text that is equal for the cells that share their programs."""
        return described({**self.setting, **dict.fromkeys(self.floats, float)})

    def prepare(self, seed: Int[Array, ""], floats: FloatArguments) -> PreparedRun:
        """Call the user's function for a seed: a trajectory, or a flow with its start and data."""
        # `floats` are those of the setting, or tracers in their place.
        constants = {name: v for name, v in self.setting.items() if not isinstance(v, float)}
        seed_key = jax.random.fold_in(self.key, seed)
        run = self.run
        # A Flow is callable too, but with a start and not with a key.
        outcome = run if isinstance(run, Flow) else run(seed_key, **constants, **floats)
        if isinstance(outcome, Flow):
            return outcome, outcome.problem.init(seed_key), None
        match outcome:
            case Trajectory():
                return outcome
            case (Flow() as flow, start):
                return flow, start, None
            case (Flow() as flow, start, data):
                return flow, start, data
        raise ValueError(
            f"run returns {type(outcome).__name__}: return one Trajectory, as gradient_flow does, "
            "a Flow, or a Flow with a start, (flow, start)."
        )

    def check(self, seed: np.integer) -> None:
        """Raise ValueError for a setting that the user's function or its flow refuses.

        In a compiled program the floats are traced, and checks do not refuse a traced value. Here
        the floats have their values. The function is only traced, which takes milliseconds.
        """

        def check_prepared(seed: Int[Array, ""], floats: FloatArguments) -> None:
            prepared = self.prepare(seed, floats)
            if not isinstance(prepared, Trajectory):
                flow, start, data = prepared
                flow.check(start, data)

        try:
            # Equinox traces arrays, here the seed, and not Python's floats; `jax.eval_shape` would
            # trace both.
            eqx.filter_eval_shape(check_prepared, seed, self.floats)
        except ValueError as error:
            raise ValueError(f"grid: run refuses {dict(self.setting)}: {error}") from error

    def trajectory(self, seed: Int[Array, ""], floats: FloatArguments) -> Trajectory:
        """One run, with the steps that it takes alone."""
        prepared = self.prepare(seed, floats)
        if isinstance(prepared, Trajectory):
            return prepared
        flow, start, data = prepared
        return flow(start, data, throw=False)

    def outputs(self, seed: Int[Array, ""], floats: FloatArguments) -> RunOutputs:
        """The outputs of one run, with the steps that it takes alone."""
        return outputs_of(self.trajectory(seed, floats))

    def outputs_with_common_steps(
        self, seeds: Int[Array, " S"], floats: FloatArguments
    ) -> RunOutputs:
        """The outputs of the runs of several seeds, which take their steps together."""
        # The flow must be the same for all seeds: with an output axis of None, vmap raises an error
        # for a flow that depends on the seed.
        axes = (None, eqx.if_array(0), eqx.if_array(0))
        prepare = eqx.filter_vmap(self.prepare, in_axes=(0, None), out_axes=axes)
        try:
            flow, starts, data = prepare(seeds, floats)
        except ValueError as error:
            # Other errors are those of the user's function.
            if "out_axes" not in str(error):
                raise
            raise ValueError(
                "run: the flow depends on the key; let the start and the data alone depend on it, "
                "or return the trajectory, flow(start), which takes its steps alone."
            ) from error
        return jax.vmap(outputs_of)(flow.batch(starts, data, throw=False))

    def program_digest(self, seed: np.integer) -> str:
        """Digest of the lowered program of one run; any other code or constant changes it."""
        return digest_of_programs([jax.jit(self.trajectory).trace(seed, self.floats)])


def outputs_of(trajectory: Trajectory) -> RunOutputs:
    """The outputs of a run that a sweep stores or uses for its decisions."""
    # Codes, since only arrays can be outputs of a program and variables of a store.
    [result] = jax.tree.leaves(trajectory.result)
    variables = {
        **variables_of(trajectory),
        "num_steps": trajectory.num_steps,
        # An array, since it differs between runs where one of a block is computed again alone.
        "shared_steps": jnp.asarray(trajectory.shared_steps),
        "result": result,
    }
    # A descent has no time: its last step is `num_steps`.
    if trajectory.steps is None:
        variables["final_log_time"] = trajectory.final_log_time
    return RunOutputs(variables, trajectory.axis.values, trajectory.succeeded)
