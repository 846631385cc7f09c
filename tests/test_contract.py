"""Every row of the tables in contract.py, against the NumPy reference, which is wrapped alike.

`python tests/test_contract.py` writes docs/contract.md.
"""

import ast
import functools
import re
import tomllib
from pathlib import Path

import contract
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import settings
from contract import FROZEN, KINDS, PAIRS, SHAPES, STEPS, WRAPPERS, Wrapper, differing, run
from contract_runs import RUNS, compiled_once, jitted

from adashift_optax import adashift, adashift_factored

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "contract.md"
PROMISES = tomllib.loads((TESTS / "promises.toml").read_text(encoding="utf-8"))["promise"]
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


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_jit(kind):
    """Every setting of every public optimizer."""
    pairs = of_kind(kind)
    updates, _ = run(cells(contract.make, pairs), PLAIN, compiled_once)
    assert differing(updates, plainly_wanted(pairs)) == {}


EVERY = [pytest.param(of_kind(kind), marks=pytest.mark.all_only, id=kind) for kind in KINDS]


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [pytest.param(PAIRS, id="layouts"), *EVERY])
@pytest.mark.parametrize("how", RUNS)
def test_run(how, pairs):
    updates, _ = run(cells(contract.make, pairs), PLAIN, RUNS[how][1])
    assert differing(updates, plainly_wanted(pairs)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [pytest.param(PAIRS, id="layouts"), *EVERY])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped(wrapper, pairs):
    context = WRAPPERS[wrapper]
    pairs = tuple(pair for pair in pairs if pair[0] not in context.without)
    updates, states = run(cells(context.make, pairs), context, context.run)
    wanted, _ = run(cells(contract.oracle, pairs), context, jitted)
    assert differing(updates, wanted) == {}
    if context.frozen:
        (size,) = SHAPES[FROZEN]
        assert all(size not in x.shape for x in jax.tree.leaves(states))


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
    grads, weight = (
        {k: rng.standard_normal((STEPS, *shape)) for k, shape in SHAPES.items()} for _ in range(2)
    )
    grads["matrix"][:, 0] = 0  # they never have a scale
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

    def by_reference(h, name, line):
        name = "factored" if name in contract.OFF else name
        moved = {k: list(grads[k] + h * line[k]) for k in SHAPES}
        return sum(np.vdot(weight[k], settings.expected(name, moved[k], k)[0]) for k in SHAPES)

    for name, got in found.items():
        assert all(np.all(np.isfinite(x)) for x in got.values())
        line = jax.tree.map(lambda x, of=got: x / optax.tree.norm(of), got)  # nothing cancels
        slope, h = sum(np.vdot(got[k], line[k]) for k in SHAPES), 1e-6
        rel = 2.0**-6 if name in contract.OFF else 1e-5
        want = (by_reference(h, name, line) - by_reference(-h, name, line)) / (2 * h)
        assert slope == pytest.approx(want, rel=rel), name
    bits, params = settings.scale_by("none bfloat16"), contract.make_params()
    with pytest.raises(TypeError, match=REFUSED):
        jax.grad(lambda g: jnp.sum(bits.update(g, bits.init(params))[0]["vector"]))(params)


def get_and_set():
    """Fields are found by name (also a schedule's count); the state goes on from a set count."""
    params = contract.make_params()
    for name in contract.ALL:
        inner = settings.scale_by(name).init(params)
        tx = optax.chain(optax.identity(), settings.optimizer(name))
        state = optax.tree.set(tx.init(params), count=7)
        for field in set(inner._fields) - {"count"}:
            found = optax.tree.get(state, field)
            assert jax.tree.structure(found) == jax.tree.structure(getattr(inner, field))
        assert optax.tree.get(state, "count") == 7
        jax.eval_shape(tx.update, params, state, params)


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
    "optax.tree.get, set": get_and_set,
    "optax.tree.map_params": map_params,
}


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation(operation):
    OPERATIONS[operation]()


def page():
    """docs/contract.md with the tables as they are here; its sentences are written there."""
    layout, every = "one of each layout", "every setting"
    rows = [("jax.jit", every, "The step is compiled once.", "test_jit")]
    rows += [(name, layout, note, "test_run") for name, (note, _) in RUNS.items()]
    rows += [(name, layout, w.note or "-", "test_wrapped") for name, w in WRAPPERS.items()]
    rows += [(name, every, o.__doc__, "test_operation") for name, o in OPERATIONS.items()]
    names = ((every, contract.ALL), (layout, contract.LAYOUTS))
    tables = (
        [("under", "settings", "remark", "test in `test_contract.py`")]
        + [(name, of, note, f"`{test}`") for name, of, note, test in rows],
        [("name", "settings")] + [(k, ", ".join(f"`{v}`" for v in values)) for k, values in names],
        [("promise", "test")] + [(p["says"], f"`{p['test']}`") for p in PROMISES],
    )
    text = PAGE.read_text(encoding="utf-8")
    for head, *body in tables:
        lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)]
        text = re.sub(rf"(?m)^{re.escape(lines[0])}\n(\|.*\n)*", "\n".join(lines) + "\n", text)
    return text


def test_page_is_of_these_tables():
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_promise_names_a_test_that_exists():
    for promise in PROMISES:
        file, name = promise["test"].split("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert name in {x.name for x in tree.body if isinstance(x, ast.FunctionDef)}, promise


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
