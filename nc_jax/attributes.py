"""Names of recorded quantities in words: the attributes of variables and coordinates."""

from collections.abc import Mapping

from .measures import EQUATIONS

# `long_name` of variables and coordinates that are no observables; `EQUATIONS` has observables.
_LONG_NAMES = {
    "log_time": "log(1 + t), t the time of the flow",
    "step": "steps of gradient descent",
    "epoch": "epochs of training",
    "seed": "number that is folded into the random key of a run",
    "result": "outcome of the run by code, 0 for a run that reached its end",
    "num_steps": "steps taken, of a flow with rejected ones",
    "final_log_time": "log(1 + t) of the last state",
    "shared_steps": "whether the runs of a batch took common steps",
}


def variable_attributes(
    name: str, *, long_names: Mapping[str, str] | None = None
) -> dict[str, str]:
    """CF attributes of a variable or coordinate: its `long_name`, and "1" as its `units`.

    Every recorded quantity is dimensionless. The long name of an observable is its equation.

    Args: `long_names` are those of further variables, which are neither in `metrics.EQUATIONS` nor
    in the table of this module. A name without a long name becomes its long name, with spaces in
    the place of underscores.

    Example:

        >>> from nc_jax import storage
        >>> storage.variable_attributes("zhu_nc4")
        {'long_name': '‖W μ_G + b‖₂ (Zhu, section 4)', 'units': '1'}
    """
    known = {**EQUATIONS, **_LONG_NAMES, **(long_names or {})}
    # `or`: an empty long name counts as none.
    return {"long_name": known.get(name) or name.replace("_", " "), "units": "1"}
