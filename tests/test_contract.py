"""Every row of the tables in contract.py, against the NumPy reference, which is wrapped alike.

`python tests/test_contract.py` writes docs/contract.md.
"""

import ast
import functools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import settings
from contract import FROZEN, KINDS, PAIRS, SHAPES, STEPS, WRAPPERS, Wrapper, differing, run
from contract_runs import RUNS, jitted
from promises import PROMISES, TESTS

from adashift_optax import adashift, adashift_factored

PAGE = TESTS.parent / "docs" / "contract.md"
PLAIN = Wrapper("")
REFUSED = "queue_dtype must be None where updates are differentiated"


@pytest.fixture(autouse=True)
def _in_64_bits():
    """In all threads, for callbacks run in others. Optax's own transformations mix dtypes."""
    jax.config.update("jax_enable_x64", True)
    with jax.numpy_dtype_promotion("standard"):
        yield
    jax.config.update("jax_enable_x64", False)


def cells(make, pairs):
    return {f"{name}, {kind}": make(name, kind) for name, kind in pairs}


def of_kind(kind):
    return tuple((name, kind) for name in contract.ALL)


@functools.cache
def plainly_wanted(pairs):
    return run(cells(contract.oracle, pairs), PLAIN, jitted)[0]


@pytest.mark.parametrize("kind", [*KINDS[:2], pytest.param(KINDS[2], marks=pytest.mark.slow)])
def test_jit(kind):
    """Every setting of every public optimizer."""
    pairs = of_kind(kind)
    updates, _ = run(cells(contract.make, pairs), PLAIN, jitted)
    assert differing(updates, plainly_wanted(pairs)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("how", RUNS)
def test_run(how):
    updates, _ = run(cells(contract.make, PAIRS), PLAIN, RUNS[how][1])
    assert differing(updates, plainly_wanted(PAIRS)) == {}


def compare_wrapped(wrapper, pairs):
    context = WRAPPERS[wrapper]
    pairs = tuple(pair for pair in pairs if pair[0] not in context.without)
    updates, states = run(cells(context.make, pairs), context, context.run)
    wanted, _ = run(cells(contract.oracle, pairs), context, jitted)
    assert differing(updates, wanted) == {}
    if context.frozen:
        (size,) = SHAPES[FROZEN]
        assert all(size not in x.shape for x in jax.tree.leaves(states))


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped(wrapper):
    compare_wrapped(wrapper, PAIRS)


@pytest.mark.all_only
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [*RUNS, *WRAPPERS])
def test_every_setting(how, kind):
    pairs = of_kind(kind)
    if how in WRAPPERS:
        return compare_wrapped(how, pairs)
    updates, _ = run(cells(contract.make, pairs), PLAIN, RUNS[how][1])
    assert differing(updates, plainly_wanted(pairs)) == {}


def vmap_numbers():
    """Each copy has a rate, b1, b2, eps and weight decay of its own."""
    numbers = np.array([[0.1, 0.9, 0.999, 1e-10, 0.0], [1.0, 0.5, 0.9, 1e-2, 0.3]])
    params, grads = contract.make_params(), contract.make_grads()
    stacked = jax.tree.map(lambda *g: jnp.stack(g), *grads)

    def updates(make, rate, b1, b2, eps, decay, **kwargs):
        tx = make(rate, b1, b2, eps, **kwargs)
        tx = optax.chain(tx, optax.add_decayed_weights(-rate * decay))

        def step(state, g):
            return tx.update(g, state, params)[::-1]

        return jax.lax.scan(step, tx.init(params), stacked)[1]

    for make, kwargs, of in (
        (adashift, {"n": 3}, reference.adashift),
        (adashift, {"n": 2, "phi": "none"}, reference.adashift),
        (adashift_factored, {}, reference.factored),
    ):
        found = jax.jit(jax.vmap(lambda x, m=make, k=kwargs: updates(m, *x, **k)))(numbers)
        for i, (rate, b1, b2, eps, decay) in enumerate(numbers):
            for leaf, u in found.items():
                moments = {"b1": b1, "b2": b2, "eps": eps, **kwargs}
                want, _ = of([g[leaf] for g in grads], **moments)
                want = [-rate * (u + decay * params[leaf]) for u in want]
                np.testing.assert_allclose(u[i], want, 1e-9, 1e-12)


def differentiate():
    """The derivative by the gradients of all steps is finite, and is the reference's."""
    rng = np.random.default_rng(2)
    grads, line, weight = (
        {k: rng.standard_normal((STEPS, *shape)) for k, shape in SHAPES.items()} for _ in range(3)
    )
    grads["matrix"][:, 0] = line["matrix"][:, 0] = 0  # they never have a scale
    # A momentum of bfloat16 has the derivative of one that is not rounded, up to its own rounding.
    kept = {n for n in contract.ALL if "queue_dtype" not in settings.SETTINGS[n]}
    txs = {name: settings.scale_by(name) for name in kept}

    def total(grads, name):
        tx = txs[name]
        _, updates = jax.lax.scan(
            lambda s, g: tx.update(g, s)[::-1], tx.init(contract.make_params()), grads
        )
        return sum(jnp.vdot(u, weight[k]) for k, u in updates.items())

    found = jax.jit(lambda g: {name: jax.grad(total)(g, name) for name in txs})(grads)

    def by_reference(h, name):
        name = "factored" if name in contract.OFF else name
        moved = {k: list(grads[k] + h * line[k]) for k in SHAPES}
        return sum(np.vdot(weight[k], settings.expected(name, moved[k], k)[0]) for k in SHAPES)

    for name, got in found.items():
        assert all(np.all(np.isfinite(x)) for x in got.values())
        slope, h = sum(np.vdot(got[k], line[k]) for k in SHAPES), 1e-6
        rel = 2.0**-6 if name in contract.OFF else 1e-5
        want = (by_reference(h, name) - by_reference(-h, name)) / (2 * h)
        assert slope == pytest.approx(want, rel=rel), name
    bits, params = settings.scale_by("none bfloat16"), contract.make_params()
    with pytest.raises(TypeError, match=REFUSED):
        jax.grad(lambda g: jnp.sum(bits.update(g, bits.init(params))[0]["vector"]))(params)


def get():
    """It finds every field by its name."""
    for name in contract.ALL:
        inner = settings.scale_by(name).init(contract.make_params())
        state = optax.chain(optax.identity(), settings.optimizer(name)).init(contract.make_params())
        for field in inner._fields:
            found = optax.tree.get(state, field)
            assert jax.tree.structure(found) == jax.tree.structure(getattr(inner, field))


def set_():
    """It sets a field, such as the count, and the state goes on from there."""
    for name in contract.LAYOUTS:
        tx = settings.optimizer(name)
        state = optax.tree.set(tx.init(contract.make_params()), count=jnp.int32(7))
        assert optax.tree.get(state, "count") == 7
        tx.update(contract.make_params(), state, contract.make_params())


def map_params():
    """Arrays of other shapes than a parameter, as `queue`, go to `transform_non_params`."""
    for name in contract.ALL:
        tx, params = settings.scale_by(name), contract.make_params()
        state = tx.init(params)
        marked = optax.tree.map_params(
            tx, lambda x: x + 1, state, transform_non_params=lambda x: jax.tree.map(jnp.negative, x)
        )
        assert jax.tree.structure(marked) == jax.tree.structure(state)
        alike = ("mu", "nu") if settings.SETTINGS[name].get("phi") == "none" else ("mu",)
        for field in state._fields:
            for x in jax.tree.leaves(getattr(marked, field)):
                assert np.all(x == (field in alike)), (name, field)


OPERATIONS = {
    "jax.vmap over numbers": vmap_numbers,
    "jax.grad": differentiate,
    "optax.tree.get": get,
    "optax.tree.set": set_,
    "optax.tree.map_params": map_params,
}


@pytest.mark.parametrize(
    "operation",
    [pytest.param(o, marks=pytest.mark.slow if o.startswith("jax") else ()) for o in OPERATIONS],
)
def test_operation(operation):
    OPERATIONS[operation]()


def page():
    """docs/contract.md."""
    rows = [("jax.jit", "every setting", "The step is compiled once.", "test_jit")]
    layout = "one of each layout"
    rows += [(name, layout, note, "test_run") for name, (note, _) in RUNS.items()]
    rows += [(name, layout, w.note or "-", "test_wrapped") for name, w in WRAPPERS.items()]
    rows += [(name, "every setting", o.__doc__, "test_operation") for name, o in OPERATIONS.items()]
    table = "\n".join(f"| {name} | {of} | {note} | `{test}` |" for name, of, note, test in rows)
    promises = "\n".join(f"| {promise} | `{test}` |" for promise, test in PROMISES)
    every, layouts = (
        ", ".join(f"`{name}`" for name in x) for x in (contract.ALL, contract.LAYOUTS)
    )
    return f"""\
# What it works with, and which test holds which promise

This page is for those who put an optimizer of this library inside another transformation of JAX or
Optax, and for those who ask how a promise is tested. Tests and page come from the same tables
(`tests/contract.py`, `tests/promises.py`).

## Wrappers

Each row of this table names a wrapper. Under it the updates equal those of a NumPy reference with
the same wrapper, to a relative 1e-9 in 64 bits (a bfloat16 momentum to 1e-6, because it is made in
float32).

| under | settings | remark | test in `test_contract.py` |
|---|---|---|---|
{table}

Each row is tested for `scale_by_adashift`, `adashift`, `adashiftw`, `scale_by_adashift_factored`
and `adashift_factored` with and without weight decay. The settings:

- "every setting" means {every}.
- "one of each layout" means {layouts}. Most wrappers only carry the state along. For them it is
  enough that each field of the state appears once in every form that it can have. `make test-all`
  runs every setting there, too.
- `jax.grad` needs `queue_dtype=None`. With bfloat16 it raises “{REFUSED} ...”.

## Promises

| promise | test |
|---|---|
{promises}
"""


def test_page_is_of_these_tables():
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_promise_names_a_test_that_exists():
    for promise, test in PROMISES:
        file, name = test.split("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert name in {x.name for x in tree.body if isinstance(x, ast.FunctionDef)}, promise


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
