"""A run that is saved and restored ends as one that was not; on a mesh of its shape bit for bit."""

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from common import assert_same_bits
from flax import serialization
from jax.sharding import AxisType
from test_sharding import VARIANTS, N, assert_in_place, make_mesh, make_params

from adashift_optax import adashift
from adashift_optax.sharding import opt_state_shardings

MOMENTS = {"mid-fill": 2, "mid-wrap": 6}  # of n = 3, whose ring has 4 slots
STEPS = 12


def same_bits_on_any_mesh(variant):
    """Sums round by the shape of a shard; newer XLA (seen with JAX 0.12) rounds all by it."""
    return variant not in ("factored", "ema_outputs") and jax.__version_info__ < (0, 11)


def run(update, mesh, params, state, steps):
    """The updates of some of the steps 0, 1, ..., and the last state."""
    updates = []
    for step in steps:
        u, state = update(make_params(mesh, step), state, params)
        updates.append(jax.tree.map(np.asarray, u))
    return updates, state


def like(tx, params):
    """What Orbax is to restore: shapes, dtypes and shardings of tx.init(params)."""
    shardings = opt_state_shardings(tx, params)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        jax.eval_shape(tx.init, params),
        shardings,
    )


def assert_same_updates(updates, wanted, exact):
    """Bit for bit, or (sums in another order) up to their rounding."""
    for u, want in zip(updates, wanted, strict=True):
        if exact:
            jax.tree.map(assert_same_bits, u, want)
        else:
            jax.tree.map(assert_same_but_for_rounding, u, want)


def assert_same_but_for_rounding(x, y):
    np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6 * np.abs(y).max())


@pytest.mark.parametrize(
    ("moment", "types"), [("mid-fill", AxisType.Auto), ("mid-wrap", AxisType.Explicit)]
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_orbax(variant, moment, types, tmp_path):
    tx, saved_at = adashift(1e-2, n=N, **VARIANTS[variant]), MOMENTS[moment]
    mesh, update = make_mesh(types), jax.jit(tx.update)
    with jax.set_mesh(mesh), ocp.StandardCheckpointer() as checkpointer:
        params = make_params(mesh)
        _, saved = run(update, mesh, params, tx.init(params), range(saved_at))
        checkpointer.save(tmp_path / "state", saved)
        wanted, _ = run(update, mesh, params, saved, range(saved_at, STEPS))
    for shape in ((4, 2), (2, 4), (8, 1)):
        mesh = make_mesh(types, shape)
        with jax.set_mesh(mesh), ocp.StandardCheckpointer() as checkpointer:
            params = make_params(mesh)
            state = checkpointer.restore(tmp_path / "state", like(tx, params))
            assert jax.tree.structure(state) == jax.tree.structure(saved)
            jax.tree.map(assert_same_bits, state, saved)
            assert_in_place(state, params)
            updates, _ = run(update, mesh, params, state, range(saved_at, STEPS))
        exact = shape == (4, 2) or same_bits_on_any_mesh(variant)
        assert_same_updates(updates, wanted, exact)


@pytest.mark.parametrize("variant", VARIANTS)
def test_flax_serialization(variant):
    """At other moments, and by pickle: test_properties.py."""
    tx, saved_at = adashift(1e-2, n=N, **VARIANTS[variant]), MOMENTS["mid-wrap"]
    params, update = make_params(None), jax.jit(tx.update)
    _, saved = run(update, None, params, tx.init(params), range(saved_at))
    wanted, _ = run(update, None, params, saved, range(saved_at, STEPS))
    state = serialization.from_bytes(tx.init(params), serialization.to_bytes(saved))
    updates, _ = run(update, None, params, state, range(saved_at, STEPS))
    assert_same_updates(updates, wanted, exact=True)


OTHERS = [
    ({}, {"n": 5}),
    ({}, {"window": "hopping"}),
    ({}, {"queue_dtype": "bfloat16"}),
    ({"queue_dtype": "bfloat16"}, {"queue_dtype": "float16"}),
    ({"queue_dtype": "float8_e5m2"}, {"queue_dtype": "float8_e4m3fn"}),  # alike but for the bits
    ({}, {"window": "ema"}),
    ({"b1": 0}, {"b1": 0, "warm_start": True}),  # alike
    ({"phi": "none", "window": "hopping"}, {"phi": "none", "window": "hopping", "n": 5}),  # alike
]


@pytest.mark.parametrize(("before", "after"), OTHERS)
def test_state_of_other_arguments_is_refused_by_name(before, after, tmp_path):
    """By Orbax, by Flax and by update: what it was saved with, and what was expected."""
    old, new = adashift(1e-2, **before), adashift(1e-2, **after)
    params = make_params(None)
    state = old.init(params)
    (was,), (expected,) = state[0].clock, new.init(params)[0].clock
    assert was != expected
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        with pytest.raises(ValueError, match="Structure mismatch") as by_orbax:
            checkpointer.restore(tmp_path / "state", jax.eval_shape(new.init, params))
    with pytest.raises(ValueError, match="do not match") as by_flax:
        serialization.from_bytes(new.init(params), serialization.to_bytes(state))
    assert was in str(by_orbax.value)
    assert expected in str(by_orbax.value)
    assert expected in str(by_flax.value)
    with pytest.raises(ValueError, match=f"{was}'\\], where init makes .*{expected}"):
        new.update(params, state, params)


REFUSED_BY_UPDATE = [
    ({"learning_rate": 1e-2}, {"learning_rate": optax.constant_schedule(1e-2)}),
    ({}, {"b2": lambda k: 1 - k**-0.8}),
    ({}, {"phi": "none"}),
    ({}, {"block_axes": (0,)}),
    ({}, {"b1": 0}),
]


@pytest.mark.parametrize(("before", "after"), REFUSED_BY_UPDATE)
def test_state_of_another_structure_is_refused(before, after):
    """As the table of docs/checkpoints.md says."""
    old, new = (adashift(**{"learning_rate": 0.1, **kwargs}) for kwargs in (before, after))
    params = make_params(None)
    with pytest.raises((ValueError, TypeError)):
        new.update(params, old.init(params), params)


def test_orbax_converts_the_momentum_and_flax_does_not(tmp_path):
    """As the table of docs/checkpoints.md says."""
    old, new, params = adashift(1e-2), adashift(1e-2, mu_dtype="bfloat16"), make_params(None)
    state, template = old.init(params), new.init(params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", template)
    new.update(params, restored, params)
    by_flax = serialization.from_bytes(template, serialization.to_bytes(state))
    with pytest.raises(ValueError, match="must belong together"):
        new.update(params, by_flax, params)
