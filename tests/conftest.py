"""Numerics of the test session: float64 on, no implicit promotion of dtypes."""

import hypothesis
import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Compilation makes the first example slow and says nothing about a property.
hypothesis.settings.register_profile(
    "nc_jax", deadline=None, max_examples=25, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("nc_jax")
