"""Small jobs of packages that other people wrote, given Adam and given ours: one bound for all.

A job hands its optimizer to the package as the package's own documentation does, and returns its
error: the distance from an answer that is known without the job. Adam is held to the same bound as
ours, and every bound is less than a fifth of the error of an optimizer that does nothing.

Only `make test-all` installs these packages, so each job imports its own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adashift_optax import adashift, adashift_factored, scale_by_adashift


def clipped(rate):
    parts = scale_by_adashift(b1=0, n=1, phi="none"), optax.clip(1.0)
    return optax.chain(*parts, optax.scale_by_learning_rate(rate))


OPTIMIZERS = {  # of the two rates in JOBS and of n
    "adam": lambda rate, *_: optax.adam(rate),
    "factored": lambda rate, *_: adashift_factored(rate),
    "max": lambda _, rate, n: adashift(rate, n=n),
    "clipped": lambda rate, *_: clipped(rate),
}
KEY = jax.random.key(0)

pytestmark = pytest.mark.all_only


def fading(rate):
    """A schedule: at a constant rate delayed steps swing about the minimum of a noise-free loss."""
    return optax.linear_schedule(rate, 0.0, 600)


def repeat(step, steps, *carry):
    """`step` from carry to carry, compiled once."""
    return jax.jit(lambda carry: jax.lax.fori_loop(0, steps, lambda _, c: step(*c), carry))(carry)


def equinox(tx):
    """A filtered model, whose activation is a leaf: the part of a sine that it does not explain."""
    import equinox as eqx

    x = jnp.linspace(-2.0, 2.0, 64)[:, None]
    y = jnp.sin(2 * x)
    model = eqx.nn.MLP(1, 1, 16, 2, key=KEY)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    def loss(model):
        return jnp.mean((jax.vmap(model)(x) - y) ** 2) / jnp.var(y)

    @eqx.filter_jit
    def step(model, state):
        updates, state = tx.update(
            eqx.filter_grad(loss)(model), state, eqx.filter(model, eqx.is_inexact_array)
        )
        return eqx.apply_updates(model, updates), state

    for _ in range(600):
        model, state = step(model, state)
    return loss(model)


def optimistix_minimiser(tx):
    """A solver that stops by itself: the minimum, and its derivative by the implicit function."""
    import optimistix

    def find(a):
        def loss(x, a):
            return jnp.sum((jnp.array([1.0, 4.0]) * x - a) ** 2)

        solver = optimistix.OptaxMinimiser(tx, rtol=1e-5, atol=1e-5)
        return optimistix.minimise(loss, solver, jnp.zeros(2), a, max_steps=5000).value

    a = jnp.array([1.0, 2.0])
    true = np.array([1.0, 0.25])
    return max(np.max(abs(find(a) - a * true)), np.max(abs(jax.jacobian(find)(a) - np.diag(true))))


def blackjax_vi(tx):
    """Parameters in a tuple of trees: the normal density that is the target."""
    import blackjax

    mean, scale = jnp.array([1.0, -1.0, 3.0]), jnp.array([0.5, 1.0, 2.0])

    def log_density(position):
        return -0.5 * jnp.sum(((position["x"] - mean) / scale) ** 2)

    vi = blackjax.meanfield_vi(log_density, tx, num_samples=8)

    def step(key, state):
        key, now = jax.random.split(key)
        return key, vi.step(now, state)[0]

    _, state = repeat(step, 600, KEY, vi.init({"x": mean}))
    return max(
        np.max(abs(state.mu["x"] - mean) / scale), np.max(abs(jnp.exp(state.rho["x"]) / scale - 1))
    )


JOBS = {  # the job; the rate of Adam, "factored" and "clipped"; that of "max"; the bound
    "equinox": (equinox, fading(0.01), fading(0.01), 0.02),
    "optimistix": (optimistix_minimiser, 0.01, 0.03, 0.003),
    "blackjax": (blackjax_vi, 0.06, 0.06, 0.01),
}


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, "none at all"])
@pytest.mark.parametrize("name", JOBS)
def test_job(name, optimizer):
    """Within the bound: Adam and ours. Without an optimizer the error is 5 times as large."""
    job, rate, block_rate, bound = JOBS[name]
    n = 1 if name == "optimistix" else 10  # its solver stops where two updates are zero
    promotion = "standard" if optimizer in ("adam", "clipped") else "strict"
    with jax.numpy_dtype_promotion(promotion):  # Optax's own parts mix dtypes
        if optimizer == "none at all":
            assert job(optax.sgd(0.0)) > 5 * bound
        else:
            assert job(OPTIMIZERS[optimizer](rate, block_rate, n)) < bound
