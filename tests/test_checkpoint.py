"""A run that is saved and restored ends as one that was not; on a mesh of its shape bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import settings
from common import assert_same_bits
from flax import serialization
from meshes import STEPS, SideBySide, assert_in_place, make_arrays, make_mesh, place, set_mesh

from adashift_optax import adashift, adashift_factored

# Where Orbax refuses a checkpoint, some of its reading is cut off without being awaited.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SAVED_AT = 11  # of the longest n, 10, a turn of the ring; of n = 3 the middle of the third


def assert_same_updates(updates, wanted, exact=True):
    """Bit for bit, or (sums in another order) up to their rounding."""
    for u, want in zip(updates, wanted, strict=True):
        for x, y in zip(*map(jax.tree.leaves, (u, want)), strict=True):
            if exact:
                assert_same_bits(x, y)
            else:
                np.testing.assert_allclose(x, y, rtol=2e-6, atol=2e-6 * np.abs(y).max())


@pytest.mark.slow
@pytest.mark.parametrize("types", [pytest.param("explicit", marks=pytest.mark.all_only), "auto"])
def test_orbax(types, tmp_path):
    """All layouts, saved in mid-run, restored on three meshes, and run to the end on two."""
    all_ = SideBySide(settings.LAYOUTS)
    mesh = make_mesh(types)
    with set_mesh(mesh):
        params = place(mesh, make_arrays())
        start = jax.device_put(all_.init(params), all_.shardings(params))
        update = jax.jit(all_.update)
        _, saved = all_.run(mesh, start, range(SAVED_AT), update)
        wanted, _ = all_.run(mesh, saved, range(SAVED_AT, STEPS), update)
    with ocp.StandardCheckpointer() as checkpointer:  # no mesh is set: on JAX 0.6 it cannot save
        checkpointer.save(tmp_path / "state", saved)
    for shape in ((4, 2), (2, 4), (8, 1)):
        mesh = make_mesh(types, shape)
        with set_mesh(mesh), ocp.StandardCheckpointer() as checkpointer:
            params = place(mesh, make_arrays())
            state = checkpointer.restore(tmp_path / "state", all_.like(params))
            assert jax.tree.structure(state) == jax.tree.structure(saved)
            jax.tree.map(assert_same_bits, state, saved)
            assert_in_place(state)
            if shape != (8, 1):  # the state is the same there too; a third program is not needed
                steps = range(SAVED_AT, STEPS)
                updates, _ = all_.run(mesh, state, steps, update if shape == (4, 2) else None)
                assert_same_updates(updates, wanted, exact=shape == (4, 2))


@pytest.mark.slow
def test_flax_serialization():
    all_, params = SideBySide(settings.SETTINGS), make_arrays()
    update = jax.jit(all_.update)
    _, saved = all_.run(None, all_.init(params), range(SAVED_AT), update)
    wanted, _ = all_.run(None, saved, range(SAVED_AT, STEPS), update)
    state = serialization.from_bytes(all_.init(params), serialization.to_bytes(saved))
    updates, _ = all_.run(None, state, range(SAVED_AT, STEPS), update)
    assert_same_updates(updates, wanted)


PARAMS = {"w": jnp.ones((4, 8)), "b": jnp.ones(8)}
BITS = {"queue_dtype": "bfloat16"}
OTHERS = [  # arguments before and after, and the field that the messages must name
    ({}, {"n": 5}, "queue"),
    ({"b1": 0}, {"b1": 0, "n": 5}, "nu_queue"),
    ({}, {"phi": "none"}, "nu"),
    ({}, BITS, "queue"),
    (BITS, {}, "queue"),
    ({"phi": "none"}, {"phi": "none", **BITS}, "queue"),
    ({}, {"block_axes": (0,)}, "nu"),
    ({}, {"b1": 0}, "mu"),
]


@pytest.mark.parametrize(("before", "after", "field"), OTHERS, ids=str)
def test_a_state_of_other_arguments_is_refused_by_name(before, after, field, tmp_path):
    """By Orbax, by Flax and by update."""
    old, new = adashift(0.1, **before), adashift(0.1, **after)
    state = old.update(PARAMS, old.init(PARAMS), PARAMS)[1]

    def by_orbax():
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "state", state)
            checkpointer.wait_until_finished()
            return checkpointer.restore(tmp_path / "state", jax.eval_shape(new.init, PARAMS))

    def by_flax():
        return serialization.from_bytes(new.init(PARAMS), serialization.to_bytes(state))

    named = rf"(?s)must be of one optimizer; got a state with .* at {field}.*, where init makes .*"
    with pytest.raises(ValueError, match=named):
        new.update(PARAMS, state, PARAMS)
    for restored in (by_orbax, by_flax):
        with pytest.raises(ValueError, match=rf"{named}|{field}|Requested shape"):
            new.update(PARAMS, restored(), PARAMS)


def test_a_state_of_another_optimizer_is_refused():
    """Also that of a number where a schedule needs a count."""
    ours, factored = adashift(0.1), adashift_factored(0.1)
    scheduled = adashift(optax.constant_schedule(0.1))
    for old, new in (
        (optax.adam(0.1), ours),
        (factored, ours),
        (ours, factored),
        (ours, scheduled),
    ):
        with pytest.raises((ValueError, TypeError)):
            new.update(PARAMS, old.init(PARAMS), PARAMS)


@pytest.mark.slow
def test_orbax_converts_the_momentum_and_flax_does_not(tmp_path):
    old, new = adashift_factored(0.1), adashift_factored(0.1, mu_dtype="bfloat16")
    state, template = old.update(PARAMS, old.init(PARAMS), PARAMS)[1], new.init(PARAMS)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", template)
    for x, y in zip(*map(jax.tree.leaves, (restored[0].mu, state[0].mu)), strict=True):
        assert_same_bits(x, y.astype(jnp.bfloat16))
    new.update(PARAMS, restored, PARAMS)
    by_flax = serialization.from_bytes(template, serialization.to_bytes(state))
    with pytest.raises(ValueError, match=r"float32.*mu.*bfloat16"):
        new.update(PARAMS, by_flax, PARAMS)


def test_a_state_restored_without_a_template():
    """Dicts in the place of tuples: the error names what to restore into."""
    for tx in (adashift(0.1), adashift_factored(0.1)):
        plain = serialization.msgpack_restore(serialization.to_bytes(tx.init(PARAMS)))
        state = (plain["0"], *tx.init(PARAMS)[1:])
        with pytest.raises(TypeError, match=r"state must be .*got dict.*tx\.init\(params\)"):
            tx.update(PARAMS, state, PARAMS)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda tx: tx, lambda tx: optax.masked(tx, lambda p: {})])
def test_a_state_without_parameters_can_be_saved(wrap, tmp_path):
    """Orbax refuses arrays of size 0."""
    states = {name: wrap(settings.optimizer(name)).init({}) for name in settings.SETTINGS}
    assert all(x.size for x in jax.tree.leaves(states))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "states", states)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "states", states)
    for name, state in restored.items():
        assert wrap(settings.optimizer(name)).update({}, state, {})[0] == {}
