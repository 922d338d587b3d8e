"""The same models in the tools that one would use without nc_jax, for benchmarks and tests."""
