"""Directions along which the objective of a deep model is constant.

Between two neighbouring factors an invertible map S of the space of dimension d_l cancels: H S and
W_1 S⁻ᵀ have the product H W_1ᵀ, and so have Sᵀ W_l and W_{l+1} S⁻ᵀ. If one of the two has a weight
decay, only rotations S leave the objective constant. Spaces share factors, W_l that of its inputs
and that of its outputs, so that the directions of all spaces are projected onto at once. Behind an
activation no map of units is a symmetry in general; the space of the features then is the only one.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..precision import matmul, widened
from ..problems import DeepFeatures, DeepUnconstrainedFeatures
from ..problems.deep.decay import is_absent

# Singular values of the map from generators to directions below this share of the largest are 0.
_RANK = 1e-6


class LayerOrbit:
    """The tangent space of the symmetry orbit of a deep model through a state."""

    def __init__(self, problem: DeepUnconstrainedFeatures, state: DeepFeatures):
        self.state = widened(state)
        spaces = len(problem.widths) if problem.is_linear else 1
        self.widths = problem.widths[:spaces]
        # Whether rotations are the only maps of a space that change no penalty.
        rigid = [
            not (is_absent(before) and is_absent(after))
            for before, after in itertools.pairwise(problem.weight_decay)
        ]
        self.rigid = rigid[:spaces]
        counts = [
            d * (d - 1) // 2 if is_rigid else d * d
            for d, is_rigid in zip(self.widths, self.rigid, strict=True)
        ]
        self.ends = np.cumsum(counts)
        dtype = self.state.features.dtype
        self.num_generators = int(self.ends[-1])
        zero = jax.ShapeDtypeStruct((self.num_generators,), dtype)
        self._back = jax.linear_transpose(self.direction, zero)
        # One column at a time: all directions together may not fit into memory.
        gram = jax.lax.map(
            lambda generator: self.against(self.direction(generator)),
            jnp.eye(self.num_generators, dtype=dtype),
        )
        self._values, self._vectors = jnp.linalg.eigh(gram)
        # Eigenvalues of a Gram matrix are squared singular values, with rounding errors of some
        # eps. In float32 these are above _RANK².
        share = max(_RANK**2, 10 * self.num_generators * float(jnp.finfo(dtype).eps))
        largest = jnp.max(self._values, initial=0)
        self._moved: Bool[Array, " g"] = (self._values > share * largest) & (largest > 0)

    @property
    def dimension(self) -> Int[Array, ""]:
        """Of the tangent space."""
        return jnp.sum(self._moved)

    def project(self, direction: DeepFeatures) -> DeepFeatures:
        """Orthogonal projection of a direction onto the tangent space."""
        rotated = matmul(self._vectors.T, self.against(widened(direction)))
        solved = jnp.where(self._moved, rotated / jnp.where(self._moved, self._values, 1), 0)
        return self.direction(matmul(self._vectors, solved))

    def against(self, direction: DeepFeatures) -> Float[Array, " g"]:
        """The products of a direction with the directions of all generators."""
        (products,) = self._back(direction)
        return products

    def direction(self, generators: Float[Array, " g"]) -> DeepFeatures:
        """The derivative of the state along the maps exp(A_l) of every space, A_l generators.

        H A_0 and −W_1 A_0ᵀ, A_lᵀ W_l and −W_{l+1} A_lᵀ; for rotations −A_lᵀ = A_l.
        """
        factors = [self.state.features.T, *self.state.weights]
        moved = [jnp.zeros_like(factor) for factor in factors]
        parts = jnp.split(generators, self.ends[:-1])
        for space, (width, part) in enumerate(zip(self.widths, parts, strict=True)):
            if self.rigid[space]:
                upper = jnp.zeros((width, width), part.dtype)
                upper = upper.at[np.triu_indices(width, 1)].set(part, unique_indices=True)
                generator = upper - upper.T
            else:
                generator = part.reshape(width, width)
            moved[space] += matmul(generator.T, factors[space])
            moved[space + 1] -= matmul(factors[space + 1], generator.T)
        return DeepFeatures(moved[0].T, tuple(moved[1:]))
