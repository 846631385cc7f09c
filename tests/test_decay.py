"""b2 as a schedule of the number of squares in v, with the bias correction that belongs to it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import SHAPES, make_grads, run, worst_error

from adashift_optax import STATIC_ARGS, adashift, scale_by_adashift

SCHEDULES = {
    "Adafactor's": lambda k: 1 - k**-0.8,
    "rising": lambda k: 0.9 + 0.09 * k / (k + 5),
    "falling": lambda k: 0.5 + 0.4 / k,
}


def schedule(name):
    return lambda k: SCHEDULES[name](jnp.asarray(k, float))


@pytest.mark.parametrize("b2", SCHEDULES)
@pytest.mark.parametrize("phi", ["max", "none", "factored"])
@pytest.mark.parametrize("window", ["sliding", "hopping", "ema"])
@pytest.mark.parametrize(("n", "warm"), [(1, False), (4, False), (5, True), (1, True)])
def test_equals_reference(b2, phi, window, n, warm, x64):
    grads = make_grads(4 * n + 5, seed=5)
    tx = scale_by_adashift(n, 0.9, schedule(b2), phi=phi, window=window, warm_start=warm)
    updates = run(tx, grads)
    for name in SHAPES:
        args = grads, name, n, 0.9, lambda k: SCHEDULES[b2](float(k)), 1e-10, phi
        assert worst_error(updates, *args, window=window, warm=warm) < 1e-12


@pytest.mark.parametrize("window", ["sliding", "hopping"])
@pytest.mark.parametrize("phi", ["max", "none"])
def test_a_constant_schedule_is_the_constant(window, phi):
    """In float32: of b2 = 0.999 a sum of weights that is kept as such would lose digits."""
    grads = make_grads(40, dtype=np.float32)
    ours = run(scale_by_adashift(4, phi=phi, window=window), grads)
    for u, g in zip(
        ours, run(scale_by_adashift(4, b2=lambda k: 0.999, phi=phi, window=window), grads),
        strict=True,
    ):  # fmt: skip
        for name in SHAPES:
            np.testing.assert_allclose(u[name], g[name], rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("value", [1.0, 1.5, -0.5])
def test_values_out_of_range_count_as_the_nearest(value):
    """With a b2 of 1 nothing joins v: there is no scale, and so no update; never a NaN."""
    grads = make_grads(6, dtype=np.float32)
    updates = run(scale_by_adashift(1, b2=lambda k: value), grads)
    nearest = run(scale_by_adashift(1, b2=0.0), grads)
    for u, v in zip(updates, nearest, strict=True):
        want = v["matrix"] if value < 0 else 0 * v["matrix"]
        np.testing.assert_allclose(u["matrix"], want, rtol=1e-6)


def test_a_schedule_that_gives_no_number():
    tx = scale_by_adashift(b2=lambda k: jnp.ones(3))
    params = {"w": jnp.ones(3)}
    with pytest.raises(TypeError, match=r"b2 must be a real scalar.*Pass e.g. b2=0.999"):
        tx.update(params, tx.init(params))


def test_counts_squares_not_steps():
    """The first call that matters is b2(1), at step n + 1, whatever n is."""
    seen = []

    def watched(k):
        jax.debug.callback(lambda k: seen.append(int(k)), k)
        return 0.9

    grads = make_grads(5, {"w": (3,)}, dtype=np.float32)
    run(scale_by_adashift(3, b2=watched), grads)
    jax.effects_barrier()
    assert set(seen) == {1, 2}


def test_under_inject_hyperparams():
    """A schedule of squares stays one if it is static, and Optax calls it by steps if not."""
    params = {"w": jnp.ones(3)}
    make = optax.inject_hyperparams(adashift, static_args=(*STATIC_ARGS, "b2"))
    state = make(0.1, b2=schedule("Adafactor's")).init(params)
    assert "b2" not in state.hyperparams
    assert optax.tree.get(state, "log_b2") is not None


def test_states_of_numbers_and_schedules_do_not_mix():
    params = {"w": jnp.ones(3)}
    state = scale_by_adashift(b2=lambda k: 0.9).init(params)
    with pytest.raises(ValueError, match="log_b2"):
        scale_by_adashift().update(params, state)


def test_an_injected_schedule_that_is_not_static_is_told_to_be():
    """Optax calls it with 0, as a schedule of its own: 1 - 0**-0.8 is minus infinity."""
    make = optax.inject_hyperparams(adashift, static_args=STATIC_ARGS)
    tx = make(1e-3, b2=schedule("Adafactor's"))
    with pytest.raises(ValueError, match=r'got .*-inf.*static_args=\(\*STATIC_ARGS, "b2"\)'):
        tx.init(jnp.ones((2, 2)))
