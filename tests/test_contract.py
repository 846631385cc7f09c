"""Every cell of the tables in contract.py, against the NumPy reference, which is wrapped alike.

`python tests/test_contract.py` writes docs/contract.md.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import (
    FROZEN,
    LAYOUT_PARTS,
    LAYOUTS,
    NARROW,
    OPTIMIZERS,
    PARTS,
    RATE,
    SHAPES,
    STEPS,
    VARIANTS,
    WRAPPERS,
    N,
    Wrapper,
    differing,
    make_params,
    oracles,
    reference_updates,
    run,
)
from contract_runs import RUNS, jitted

from adashift_optax import scale_by_adashift

PAGE = Path(__file__).parent.parent / "docs" / "contract.md"
PLAIN = Wrapper("")


@pytest.fixture(autouse=True)
def _in_64_bits():
    """In all threads, for callbacks run in others. Optax's own transformations mix dtypes."""
    jax.config.update("jax_enable_x64", True)
    with jax.numpy_dtype_promotion("standard"):
        yield
    jax.config.update("jax_enable_x64", False)


def ours(variant, context=PLAIN):
    return {
        name: context.make(factory, {"n": N, **kwargs, **VARIANTS[variant]})
        for name, (factory, kwargs) in OPTIMIZERS.items()
    }


def cells(make, part):
    """make(variant) of the variants of `part`, side by side."""
    return {f"{variant}: {name}": tx for variant in part for name, tx in make(variant).items()}


def wanted(context, part):
    return run(cells(lambda variant: oracles(VARIANTS[variant]), part), context, jitted)[0]


plainly_wanted = functools.cache(functools.partial(wanted, PLAIN))


@pytest.mark.parametrize("part", PARTS, ids=str)
@pytest.mark.parametrize("how", RUNS)
def test_run(how, part):
    updates, _ = run(cells(ours, part), PLAIN, RUNS[how][1])
    assert differing(updates, plainly_wanted(part)) == []


WRAPPED = [
    (wrapper, part)
    for wrapper, context in WRAPPERS.items()
    for part in (LAYOUT_PARTS if context.variants == LAYOUTS else PARTS)
]


@pytest.mark.parametrize(("wrapper", "part"), WRAPPED, ids=str)
def test_wrapped(wrapper, part):
    context = WRAPPERS[wrapper]
    updates, states = run(cells(lambda v: ours(v, context), part), context, context.run)
    assert differing(updates, wanted(context, part)) == []
    if context.frozen:
        (size,) = SHAPES[FROZEN]
        assert all(size not in x.shape for x in jax.tree.leaves(states))


def test_every_layout_is_among_the_layouts():
    """Of each field: its structure, and which of its arrays are as large as "w", or rings of it."""

    def layouts(variants):
        for variant in variants:
            params = make_params()
            state = scale_by_adashift(**{"n": N, **VARIANTS[variant]}).init(params)
            for name in ("mu", "nu", "queue", "nu_queue", "log_b2"):
                leaves, tree = jax.tree.flatten(getattr(state, name))
                yield name, tree, *(x.shape[-2:] == params["w"].shape for x in leaves)

    assert {*layouts(LAYOUTS)} == {*layouts(VARIANTS)}


def differentiate(variant):
    """The derivative by the gradients of all steps is finite, and is the reference's."""
    rng = np.random.default_rng(2)
    grads, line, *weights = (
        {k: rng.standard_normal((STEPS, *shape)) for k, shape in SHAPES.items()}
        for _ in range(2 + len(OPTIMIZERS))
    )
    grads["w"][:, 0] = line["w"][:, 0] = 0  # they never have a scale
    params = make_params()

    def total(grads):
        terms = []
        for tx, weight in zip(ours(variant).values(), weights, strict=True):

            def step(state, g, tx=tx):
                return tx.update(g, state, params)[::-1]

            _, updates = jax.lax.scan(step, tx.init(params), grads)
            terms += [jnp.vdot(u, weight[k]) for k, u in updates.items()]
        return sum(terms)

    def by_reference(h):
        plain, shift, decay = ({k: w[k] for k in SHAPES} for w in weights)
        return sum(
            np.vdot(
                plain[k] - RATE * (shift[k] + decay[k]),
                reference_updates(list(grads[k] + h * line[k]), VARIANTS[variant]),
            )
            for k in SHAPES
        )

    got, h = jax.jit(jax.grad(total))(grads), 1e-6
    assert all(np.all(np.isfinite(x)) for x in got.values())
    slope = sum(np.vdot(got[k], line[k]) for k in SHAPES)
    # Derivatives by m are rounded to its dtype as m is, once in each of two steps and more.
    rel = 2.0**-6 if "mu_dtype" in VARIANTS[variant] else 1e-6
    assert slope == pytest.approx((by_reference(h) - by_reference(-h)) / (2 * h), rel=rel)


def get(variant):
    """It finds every field by its name."""
    for tx in ours(variant).values():
        inner = optax.tree.get(tx.init(make_params()), "ScaleByAdashiftState")
        state = optax.chain(optax.identity(), tx).init(make_params())
        for name in ("count", "mu", "nu", "queue", "nu_queue", "log_b2"):
            found = optax.tree.get(state, name)
            assert jax.tree.structure(found) == jax.tree.structure(getattr(inner, name))


def set_(variant):
    """It sets a field, such as the count, and the state goes on from there."""
    for tx in ours(variant).values():
        state = optax.tree.set(tx.init(make_params()), count=jnp.int32(7))
        assert optax.tree.get(state, "count") == 7
        tx.update(make_params(), state, make_params())


def map_params(variant):
    """Arrays of other shapes than a parameter, as `queue`, go to `transform_non_params`."""
    for tx in ours(variant).values():
        state = tx.init(make_params())
        marked = optax.tree.map_params(
            tx, lambda x: x + 1, state, transform_non_params=lambda x: jax.tree.map(jnp.negative, x)
        )
        assert jax.tree.structure(marked) == jax.tree.structure(state)
        inner = optax.tree.get(marked, "ScaleByAdashiftState")
        assert all(np.all(x == 1) for x in jax.tree.leaves(inner.mu))
        assert all(np.all(x == 0) for x in jax.tree.leaves(inner.queue))
        elementwise = VARIANTS[variant].get("phi") == "none"
        assert all(np.all(x == elementwise) for x in jax.tree.leaves(inner.nu))


OPERATIONS = {
    "jax.grad": differentiate,
    "optax.tree.get": get,
    "optax.tree.set": set_,
    "optax.tree.map_params": map_params,
}
REFUSED = {
    ("jax.grad", variant): (TypeError, "queue_dtype must be None where updates are differentiated")
    for variant in NARROW
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_operation(variant, operation):
    if (operation, variant) in REFUSED:
        error, message = REFUSED[operation, variant]
        with pytest.raises(error, match=message):
            OPERATIONS[operation](variant)
    else:
        OPERATIONS[operation](variant)


def page():
    """docs/contract.md."""
    rows = [(name, note) for name, (note, _) in RUNS.items()]
    rows += [(name, wrapper.note) for name, wrapper in WRAPPERS.items()]
    rows += [(name, check.__doc__) for name, check in OPERATIONS.items()]
    lines = []
    for name, note in rows:
        refused = [variant for variant in VARIANTS if (name, variant) in REFUSED]
        works = "all but " + ", ".join(f"`{v}`" for v in refused) if refused else "all"
        if name in WRAPPERS and WRAPPERS[name].variants == LAYOUTS:
            works = "one of each layout"
        for message in {REFUSED[name, variant][1] for variant in refused}:
            note = f"{note} The others raise an error: “{message} ...”."
        note = note.strip() or "\N{EN DASH}"
        lines.append(f"| {name} | {works} | {note} |")
    table = "\n".join(lines)
    optimizers = ", ".join(f"`{name}`" for name in OPTIMIZERS)
    variants, layouts = (", ".join(f"`{name}`" for name in names) for names in (VARIANTS, LAYOUTS))
    return f"""\
# What it works with

This page is for those who put `adashift` inside another transformation of JAX or Optax. Each row
names a wrapper. Under it the updates equal those of a NumPy reference with the same wrapper, to a
relative 1e-9 in 64 bits (with `mu_dtype`, to the rounding of the momentum). Tests and page come
from the same tables (`tests/contract.py`).

| under | settings tested | remark |
|---|---|---|
{table}

Other pages tell about meshes and `jax.shard_map` ([Sharding](sharding.md)), saving and restoring
([Checkpoints](checkpoints.md)), and numbers that are not finite ([Numerics](numerics.md)).

## What is tested in each row

Each row is tested for {optimizers}, and in the settings of its second column:

- **all**: {variants}.
- **one of each layout**: {layouts}. Some transformations only carry the state along. For them it is
  enough that each field of the state appears once in every form that it can have.
- In these names "max" is a `phi`, "ema" a `window`, and "bfloat16" a `queue_dtype`.
"""


def test_page_is_of_these_tables():
    assert PAGE.read_text(encoding="utf-8") == page()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
