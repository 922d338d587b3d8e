"""The central path in closed form: its implicit equation, late laws, and its limit."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.integrate
from tolerances import integration, rounding

import nc_jax as nc
from nc_jax.problems.central_path import class_contrasts

SIZES = [(4, 6), (2, 1), (10, 30)]
STARTS = np.array([1e-8, 1e-2, 1.0, 3.0, 1e4])
LOG_TIMES = np.array([1e-5, 0.3, 3.0, 30.0, 300.0, 2500.0])


def test_the_reference_value():
    found = float(nc.exact.central_path(1.0, np.log1p(1e6), 4, 6))
    assert abs(found - 28.4326393933) < 1e-10


@pytest.mark.parametrize(("classes", "size"), SIZES)
def test_the_closed_form_solves_its_equation_from_small_and_large_starts(classes, size):
    """n [K² log(ω/ω₀) + K (ω² − ω₀²) + (ω⁴ − ω₀⁴)/4] = t, in 80 digits."""
    found = nc.exact.central_path(STARTS[:, None], LOG_TIMES, classes, size)
    with mpmath.workdps(80):
        for start, row in zip(STARTS, found, strict=True):
            for log_time, value in zip(LOG_TIMES, row, strict=True):
                first, time = mpmath.mpf(start), mpmath.expm1(mpmath.mpf(log_time))

                def elapsed(last, first=first):
                    squares = classes * (last**2 - first**2) + (last**4 - first**4) / 4
                    return size * (classes**2 * mpmath.log(last / first) + squares)

                # log ω is accurate to the rounding of log t, which is the input.
                slack = rounding(operations=10) * (1 + log_time)
                lower, upper = (mpmath.mpf(float(value)) * (1 + sign * slack) for sign in (-1, 1))
                assert elapsed(lower) <= time <= elapsed(upper)


def test_the_closed_form_is_the_ode_by_scipy():
    classes, size = 3, 4
    starts, times = np.array([0.3, 1.0, 2.5]), np.array([1.0, 10.0, 300.0])
    solved = scipy.integrate.solve_ivp(
        lambda t, w: w / (size * (classes + w**2) ** 2), (0, 300), starts,
        t_eval=times, method="DOP853", rtol=1e-12, atol=1e-14,
    )  # fmt: skip
    found = nc.exact.central_path(starts[:, None], np.log1p(times), classes, size)
    np.testing.assert_allclose(found, solved.y, rtol=integration(1e-12))


def test_special_starts_and_times():
    central_path = nc.exact.central_path
    starts = jnp.array([0.0, 1e-3, 2.0])
    np.testing.assert_array_equal(central_path(0.0, LOG_TIMES, 4, 6), 0)
    np.testing.assert_allclose(central_path(starts, 0.0, 4, 6), starts, rtol=rounding())
    # ω ~ t^(1/4) exceeds the largest float at log t = 4 · 709.8.
    assert central_path(1.0, 2830.0, 4, 6) > 1e300
    assert central_path(1.0, 2850.0, 4, 6) == np.inf


def test_compiled_in_float32_and_over_a_batch():
    solve = jax.jit(jax.vmap(lambda start, time: nc.exact.central_path(start, time, 4, 6)))
    starts, times = np.array([0.5, 2.0]), np.array([3.0, 20.0])
    exact = solve(starts, times)
    single = solve(starts.astype("float32"), times.astype("float32"))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, exact, rtol=rounding("float32"))


def test_late_laws_of_growth_nc1_and_nc2():
    """ω⁴ = 4t/n − 4Kω² …: the predicted correction, and the rates 1/√t and 1/t."""
    classes, size = 4, 6
    constant = [size * (classes**2 * np.log(w) + classes * w**2 + w**4 / 4) for w in (0.5, 2.0)]
    for log10_time in (6.0, 9.0, 12.0):
        time = 10**log10_time
        low, high = np.asarray(
            nc.exact.central_path(np.array([0.5, 2.0]), np.log1p(time), classes, size)
        )
        leading = (4 * time / size) ** 0.25
        corrected = np.sqrt(leading**2 - 2 * classes)
        assert abs(high / leading - 1) > 10 * abs(high / corrected - 1)
        # (ω²/2 + K)² = t/n + O(log t).
        assert abs(high / corrected - 1) < 30 * np.log(time) * size / time
        # ω⁴ of the two modes differs by 4 times the difference of their constants.
        predicted = (constant[1] - constant[0]) / (4 * time)
        assert abs((high - low) / high / predicted - 1) < 10 / np.sqrt(time / size)


def test_the_loss_is_half_the_sum_over_modes_and_falls_as_the_root_of_time():
    values = np.array([[0.0, 0.5, 2.0], [1.0, 1.0, 1.0]])
    expected = [(1 / 4 + 1 / 4.25 + 1 / 8) / 2, 3 / 10]
    np.testing.assert_allclose(nc.exact.central_path_loss(values, 4), expected, rtol=rounding())
    late = nc.exact.central_path(np.ones(3), np.log1p(1e12), 4, 6)
    # 1/(K + ω²) with ω² + K = 2 √(t/n) − K + …
    leading = 3 / (4 * np.sqrt(1e12 / 6))
    found = float(nc.exact.central_path_loss(late, 4))
    predicted = 3 / (2 * (2 * np.sqrt(1e12 / 6) - 4))
    assert abs(found / leading - 1) > 10 * abs(found / predicted - 1)


@pytest.mark.parametrize("sizes", [(5, 5, 5), (3, 5, 2, 4), (20, 1)])
def test_the_limit_is_a_fixed_point_of_the_late_flow(sizes):
    """S' = (I+S)^(-1)(BS + SB)(I+S)^(-1)/N of the contrasts S = CCᵀ has S = √t G, S'√t = G/2."""
    gram = nc.exact.central_path_gram(sizes)
    contrasts, shares = class_contrasts(sizes)
    np.testing.assert_allclose(shares @ gram, 0, atol=rounding())
    limit = contrasts.T @ (np.sqrt(shares)[:, None] * gram * np.sqrt(shares)) @ contrasts
    weights = (contrasts.T * shares) @ contrasts
    inverse = np.linalg.inv(limit)
    rate = inverse @ (weights @ limit + limit @ weights) @ inverse / sum(sizes)
    np.testing.assert_allclose(rate, limit / 2, rtol=rounding(), atol=rounding())


def test_the_limit_is_an_etf_for_classes_of_one_size_alone():
    etf = nc.exact.central_path_gram((6,) * 4)
    np.testing.assert_allclose(etf, 2 / np.sqrt(6) * (np.eye(4) - 1 / 4), atol=rounding())
    norms = np.diag(nc.exact.central_path_gram((10, 10, 1, 1)))
    # Means of small classes are longer.
    assert norms[2] == pytest.approx(norms[3], rel=rounding())
    assert norms[2] > 2 * norms[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nc.exact.central_path(-1.0, 1.0, 4, 6), "start = -1.0: give a finite number >= 0"),
        (lambda: nc.exact.central_path(1.0, -1.0, 4, 6), "log_time = -1.0"),
        (lambda: nc.exact.central_path(1.0, 1.0, 1, 6), "num_classes = 1: give an integer >= 2"),
        (lambda: nc.exact.central_path(1.0, 1.0, 4, 0), "samples_per_class = 0"),
        (lambda: nc.exact.central_path_loss(np.ones(2), 4), "give all 3 values"),
        (lambda: nc.exact.central_path_gram((3,)), r"class_sizes = \(3,\)"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)
