"""The flow of the unconstrained-features model, on the time axis of a training."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Key

from ..checks import check_integer, check_key, check_kind, check_number
from ..dynamics import Flow, log_times
from ..errors import ArgumentError
from ..problems import UnconstrainedFeatures, WeightDecay
from ..trajectory import Trajectory

# The measure by which the two time axes are matched: the share of samples whose nearest class mean
# is not the class of the largest logit.
_MATCHED = "papyan_ncc_mismatch"
# Figures compare the measures by eye over decades of time, for which this tolerance suffices.
_RTOL = 1e-6
# The largest log(1 + t) with a t that is a float.
_LARGEST = math.log(np.finfo(float).max)


def model_of_network(
    num_classes: int,
    feature_dim: int,
    *,
    weight_decay: float = 0.0,
    samples_per_class: int = 10,
) -> UnconstrainedFeatures:
    """The unconstrained-features model of a network with K classes and d features, without bias.

    L = (1/N) Σ ℓ(W h_i, y_i) + λ/2 ‖W‖² + λ/(2N) ‖H‖² with cross-entropy ℓ: the model of Ji et al.
    for λ = 0, otherwise that of Zhu et al. (eq. 3). The decay of the features is λ/N, because a
    network is not penalised for each feature but for the weights that compute all of them.

    Args:
        num_classes: K.
        feature_dim: d.
        weight_decay: λ, the decay of all parameters of the network.
        samples_per_class: N/K. More samples cost time and change little but the time scale.

    Raises: ValueError for a count below 1 or a negative decay.

    Example:
        >>> from nc_jax import cnn
        >>> cnn.model_of_network(3, 4, weight_decay=0.5, samples_per_class=2).weight_decay.features
        0.08333333333333333
    """
    check_number("weight_decay", weight_decay, scalar=True)
    samples_per_class = check_integer("samples_per_class", samples_per_class)
    num_classes = check_integer("num_classes", num_classes)
    decay = WeightDecay(
        classifier=weight_decay, features=weight_decay / (samples_per_class * num_classes)
    )
    return UnconstrainedFeatures(
        (samples_per_class,) * num_classes, feature_dim, weight_decay=decay
    )


def model_flow(
    data: xr.Dataset,
    problem: UnconstrainedFeatures,
    *,
    save_at: Float[np.ndarray, " T"] | None = None,
    num_starts: int = 8,
    key: Key[Array, ""] | None = None,
    progress: bool = True,
) -> Trajectory:
    """The gradient flow of a model, with its time scaled to the epochs of a training.

    In the model features move freely, so that the time of its flow has no unit in common with
    epochs. One factor is fitted, by which t is multiplied. It is the ratio of an epoch and a time:
    the first epoch of the training, and the first time of the flow, at which the nearest class mean
    is the class of the largest logit for all samples. At these the median of `papyan_ncc_mismatch`,
    over seeds and over starts, is 0. If the median never reaches 0, the last epoch or time is used.
    Epoch 0 counts as 1.

    Args:
        data: data set of a training, with `papyan_ncc_mismatch`.
        problem: the model, such as `model_of_network(10, 64, weight_decay=5e-4)`.
        save_at: increasing values of log(1 + t), t the time before it is scaled; None for 201
            values up to t = 10^4, evenly spaced.
        num_starts: number of random starts; start i is drawn from `fold_in(key, i)`.
        key: typed key; None for `jax.random.key(0)`.
        progress: show a progress bar on stderr, once the run has taken a second on a terminal or in
            a notebook, or a minute elsewhere.

    Returns: a `Trajectory` with a leading axis of starts and the scaled time.

    Raises: ValueError for a data set without `papyan_ncc_mismatch`, and as `Flow`.

    Example:
        >>> import xarray as xr
        >>> from nc_jax import cnn
        >>> mismatch = ("seed", "epoch"), [[0.5, 0.1, 0.0]]
        >>> data = xr.Dataset({"papyan_ncc_mismatch": mismatch}, {"epoch": [0, 1, 4]})
        >>> model = cnn.model_of_network(3, 4, samples_per_class=1)
        >>> flow = cnn.model_flow(data, model, save_at=nc.log_times(3, 7), num_starts=2)
        >>> flow.observables["zhu_nc1"].shape
        (2, 7)
    """
    check_kind("data", data, xr.Dataset, "cnn.train(...).data")
    if _MATCHED not in data:
        raise ValueError(
            f"data: {_MATCHED} was not recorded; train with observe=None, or name it in observe."
        )
    key = jax.random.key(0) if key is None else key
    check_key(key)
    num_starts = check_integer("num_starts", num_starts)
    save_at = log_times(4, 201) if save_at is None else np.asarray(save_at, float)
    if save_at[-1] > _LARGEST:
        raise ArgumentError(
            f"save_at[-1] = {save_at[-1]:g}: give values of log(1 + t) up to {_LARGEST:.0f}, since "
            "epochs are t times a factor, and t is a float.",
            "save_at",
        )
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_starts))
    starts = jax.vmap(problem.init)(keys)
    # `throw=False`: if the batch stops early, the values until then can still be drawn.
    flows = Flow(problem, save_at, rtol=_RTOL).batch(starts, throw=False, progress=progress)
    mismatch = np.median(np.asarray(flows.observables[_MATCHED]), axis=0)
    epoch = data["epoch"].values[_first_zero(data[_MATCHED].median("seed").values)]
    # `save_at` contains log(1 + t). At t = 0 a factor would be infinite: the next save is taken.
    later = save_at > 0
    time = math.expm1(save_at[later][_first_zero(mismatch[later])])
    return flows.with_time_scaled(max(epoch, 1) / time)


def _first_zero(values: Float[np.ndarray, " T"]) -> int:
    """The index of the first zero, or the last index if there is none."""
    zero = np.flatnonzero(values == 0)
    return int(zero[0]) if zero.size else len(values) - 1
