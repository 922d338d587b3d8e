"""Options of XLA."""

import jax
import jax.numpy as jnp
import pytest

from nc_jax.cnn.runs import _LEFT_TO_YNNPACK
from nc_jax.compilation import cpu_options

on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="of what CPUs run")


def test_options_that_xla_does_not_know_are_left_out():
    assert cpu_options(xla_cpu_of_another_age=1) == {}
    assert cpu_options(xla_cpu_prefer_vector_width="wide") == {}


@on_cpu
def test_options_that_xla_knows_are_kept():
    assert cpu_options(xla_cpu_prefer_vector_width=512) == {"xla_cpu_prefer_vector_width": 512}


@on_cpu
def test_convolutions_are_not_left_to_ynnpack_and_products_are(optimized):
    options = cpu_options(xla_cpu_experimental_ynn_fusion_type=_LEFT_TO_YNNPACK)
    if not options:
        pytest.skip("this version of XLA has no such option")

    def text(function, *shapes):
        operands = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        compiled = jax.jit(function, compiler_options=options).lower(*operands).compile()
        return str(compiled.as_text())

    def convolved(images, kernel):
        return jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert "ynn_fusion" not in text(convolved, (64, 16, 16, 64), (3, 3, 64, 64))
    assert "ynn_fusion" in text(jnp.matmul, (512, 512), (512, 512))
