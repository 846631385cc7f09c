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


def haiku(tx):
    """Parameters in nested dicts: the cross-entropy of an exclusive or."""
    import haiku as hk

    x = jax.random.normal(KEY, (256, 2))
    labels = (x[:, 0] * x[:, 1] > 0).astype(int)
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([32, 2])(x)))

    @jax.jit
    def loss(params):
        logits = net.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params = net.init(KEY, x)
    params, _ = repeat(step, 600, params, tx.init(params))
    return loss(params)


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


@jax.jit
@jax.grad
def oscillator_gradient(matrix):
    """Of the squared distance between two paths: one solved, one in closed form."""
    import diffrax

    times = jnp.linspace(0.0, 2.0, 21)
    path = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, matrix: matrix @ y),
        diffrax.Tsit5(),
        t0=0.0,
        t1=2.0,
        dt0=0.1,
        y0=jnp.array([1.0, 0.0]),
        args=matrix,
        saveat=diffrax.SaveAt(ts=times),
    ).ys
    true = jnp.exp(-0.1 * times) * jnp.stack([jnp.cos(2 * times), -jnp.sin(2 * times)])
    return jnp.mean((path - true.T) ** 2)


def diffrax_solve(tx):
    """Gradients through an adjoint: the coefficients of a damped oscillator, from its path."""
    matrix = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    state, update = tx.init(matrix), jax.jit(tx.update)
    for _ in range(400):
        updates, state = update(oscillator_gradient(matrix), state, matrix)
        matrix = optax.apply_updates(matrix, updates)
    return np.max(abs(matrix - np.array([[-0.1, 2.0], [-2.0, -0.1]])))


def numpyro_svi(tx):
    """Variational inference: a posterior known in closed form, in its standard deviations."""
    import numpyro
    import numpyro.distributions as dist

    data = np.random.default_rng(0).normal([1.0, -2.0, 0.5], 1.0, (10, 3)).astype(np.float32)

    def model():
        theta = numpyro.sample("theta", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
        numpyro.sample("data", dist.Normal(theta, 1.0).to_event(1), obs=data)

    guide = numpyro.infer.autoguide.AutoNormal(model)
    svi = numpyro.infer.SVI(model, guide, tx, numpyro.infer.Trace_ELBO(num_particles=8))
    params = svi.run(KEY, 600, progress_bar=False).params
    scale = 11**-0.5
    return max(
        np.max(abs(params["theta_auto_loc"] - data.sum(0) / 11)) / scale,
        np.max(abs(params["theta_auto_scale"] / scale - 1)),
    )


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


def flowjax_fit(tx):
    """Maximum likelihood with early stopping: the divergence from the density of the data."""
    import flowjax.flows
    import flowjax.train
    from flowjax.distributions import Normal

    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, 2000))
    data = jnp.array([noise[0], 0.5 * noise[1] + noise[0] ** 2], jnp.float32).T
    entropy = 1 + np.log(2 * np.pi * 0.5)
    flow = flowjax.flows.coupling_flow(
        KEY, base_dist=Normal(jnp.zeros(2)), flow_layers=2, nn_width=16
    )
    flow, _ = flowjax.train.fit_to_data(
        KEY, flow, data, optimizer=tx, max_epochs=20, show_progress=False
    )
    return -jnp.mean(flow.log_prob(data)) - entropy


def evosax_es(tx):
    """Gradients estimated from a population: the distance of its mean from the optimum."""
    from evosax.algorithms import Open_ES

    best = jnp.array([1.0, -2.0, 3.0, 0.5])
    es = Open_ES(64, best, optimizer=tx, std_schedule=optax.constant_schedule(0.1))
    params = es.default_params

    def step(key, state):
        key, ask, tell = jax.random.split(key, 3)
        population, state = es.ask(ask, state, params)
        fitness = jnp.sum((population - best) ** 2, axis=1)
        return key, es.tell(tell, population, fitness, state, params)[0]

    _, state = repeat(step, 600, KEY, es.init(KEY, jnp.zeros(4), params))
    return np.max(abs(es.get_mean(state) - best))


JOBS = {  # the job; the rate of Adam, "factored" and "clipped"; that of "max"; the bound
    "equinox": (equinox, fading(0.01), fading(0.01), 0.02),
    "haiku": (haiku, fading(0.02), fading(0.05), 0.1),
    "optimistix": (optimistix_minimiser, 0.01, 0.03, 0.003),
    "diffrax": (diffrax_solve, 0.06, 0.2, 0.001),
    "numpyro": (numpyro_svi, 0.03, 0.03, 0.2),
    "blackjax": (blackjax_vi, 0.06, 0.06, 0.01),
    "flowjax": (flowjax_fit, 0.005, 0.02, 0.2),
    "evosax": (evosax_es, fading(0.05), fading(0.05), 0.001),
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
