"""The updates against the NumPy float64 reference, which shares no code with the library."""

import contextlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import random_cases
import reference
from common import SHAPES, make_grads, run, worst_error

from adashift_optax import adashift, adashiftw, scale_by_adashift

TOLERANCE = {"float64": 1e-12, "float32": 2e-5}


def precision(dtype):
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


# In float32 what differs is rounding, and of that there is most in the longest window.
N_AND_DTYPE = [*((n, "float64") for n in (1, 2, 3, 10)), (10, "float32")]

# With b1 = 0 there is a queue only for "none"; of what has none, one phi is as good as another.
PHI_AND_B1 = [("max", 0.9), ("max", 0), ("mean", 0.9), ("none", 0.9), ("none", 0)]


@pytest.mark.parametrize(("phi", "b1"), PHI_AND_B1)
@pytest.mark.parametrize(("n", "dtype"), N_AND_DTYPE)
def test_equals_reference(n, dtype, phi, b1):
    grads = make_grads(4 * n + 5, dtype=dtype)
    with precision(dtype):
        updates = run(scale_by_adashift(n, b1, phi=phi), grads)
    for name in SHAPES:
        assert updates[-1][name].dtype == dtype
        assert worst_error(updates, grads, name, n, b1, 0.999, 1e-10, phi) < TOLERANCE[dtype]


AXES = {"stack": (1, 2), "conv": (0, 1), "matrix": (0,), "vector": ()}


@pytest.mark.parametrize("phi", ["max", "mean", np.median])
@pytest.mark.parametrize("b1", [0, 0.9])
@pytest.mark.parametrize("n", [1, 3])
def test_block_axes_equal_reference(n, b1, phi, x64):
    grads = make_grads(4 * n + 5)
    tx = scale_by_adashift(
        n,
        b1,
        phi=jnp.median if callable(phi) else phi,
        block_axes=lambda path, leaf: AXES.get(path[0].key),
    )
    updates = run(tx, grads)
    for name in SHAPES:
        axes = AXES.get(name)
        assert worst_error(updates, grads, name, n, b1, 0.999, 1e-10, phi, axes=axes) < 1e-12


def test_negative_axes_for_every_leaf(x64):
    shapes = {"matrix": (3, 4), "stack": (2, 3, 4)}
    grads = make_grads(9, shapes)
    updates = run(scale_by_adashift(2, block_axes=(-1, -2)), grads)
    assert worst_error(updates, grads, "stack", 2, 0.9, 0.999, 1e-10, "max", axes=(1, 2)) < 1e-12
    assert worst_error(updates, grads, "matrix", 2, 0.9, 0.999, 1e-10, "max") < 1e-12


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("phi", ["max", "mean", "none", np.median])
def test_stacked_layers_are_updated_as_if_they_were_apart(phi, axis, x64):
    layers = [[g["w"] for g in make_grads(13, {"w": (3, 2)}, seed=seed)] for seed in range(4)]
    stacked = [{"w": np.stack(step, axis)} for step in zip(*layers, strict=True)]
    axes = tuple(a for a in range(3) if a != axis)
    library_phi = jnp.median if callable(phi) else phi
    updates = run(scale_by_adashift(3, phi=library_phi, block_axes=axes), stacked)
    for i, grads in enumerate(layers):
        wanted, _ = reference.adashift(grads, 3, 0.9, 0.999, 1e-10, phi)
        for u, want in zip(updates, wanted, strict=True):
            np.testing.assert_allclose(np.take(u["w"], i, axis), want, rtol=1e-12, atol=1e-14)


def test_whole_leaf_callable_phi(x64):
    grads = make_grads(9)
    updates = run(scale_by_adashift(2, phi=lambda g2: jnp.sum(g2) + 1), grads)
    for name in SHAPES:
        error = worst_error(updates, grads, name, 2, 0.9, 0.999, 1e-10, lambda g2: g2.sum() + 1)
        assert error < 1e-12


@pytest.mark.parametrize("phi", ["max", "none"])
def test_complex_gradients_use_their_magnitude(phi, x64):
    real, imag = make_grads(9, seed=1), make_grads(9, seed=2)
    grads = [jax.tree.map(lambda a, b: a + 1j * b, *pair) for pair in zip(real, imag, strict=True)]
    updates = run(scale_by_adashift(2, phi=phi, clip_value=0.5), grads)
    for name in SHAPES:
        assert updates[-1][name].dtype == np.complex128
        assert worst_error(updates, grads, name, 2, 0.9, 0.999, 1e-10, phi, clip=0.5) < 1e-12


@pytest.mark.parametrize("clip", [0.7, lambda count: 0.02 * (jnp.asarray(count, float) + 1)])
def test_clip_value(clip, x64):
    grads = make_grads(15)
    updates = run(scale_by_adashift(2, phi="none", clip_value=clip), grads)
    for name in SHAPES:
        assert worst_error(updates, grads, name, 2, 0.9, 0.999, 1e-10, "none", clip=clip) < 1e-12
    assert np.max(np.abs(updates[-1]["conv"])) == pytest.approx(0.7 if clip == 0.7 else 0.3)


@pytest.mark.parametrize("fault", reference.FAULTS)
def test_every_published_fault_would_be_found(fault, x64):
    """Each faulty variant is further from the reference than the library is allowed to be."""
    phi = "none" if fault == "divides_by_eps" else "max"
    grads = make_grads(17)
    updates = run(scale_by_adashift(3, phi=phi), grads)
    leaf = [g["matrix"] for g in grads]
    wrong = reference.FAULTS[fault](leaf, 3, 0.9, 0.999, 1e-10, phi)
    assert worst_error(updates, grads, "matrix", 3, 0.9, 0.999, 1e-10, phi) < 1e-12
    wrong = [{"matrix": np.nan_to_num(u, nan=np.inf)} for u in wrong]
    assert worst_error(wrong, grads, "matrix", 3, 0.9, 0.999, 1e-10, phi) > 1e-3


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_queue_that_is_seeded_twice(n):
    """What the page says of it: NaN at call n - 1, 0 at call n; with n = 1 v holds today's g."""
    ones = [np.ones(1)] * 8
    grads = [*ones, np.full(1, 1e3)]
    u = [x.item() for x in reference.FAULTS["queue_seeded_twice"](grads, n, 0, 0.5, 0, "max")]
    assert np.isnan(u[n - 2]) if n > 1 else u[0] == 0
    assert u[n - 1] == 0
    right = reference.adashift(grads, n, 0, 0.5, 0, "max")[0][-1].item()
    assert right == 1e3
    assert u[-1] < 2 if n == 1 else u[-1] > 500


def test_the_page_of_deviations_names_every_fault():
    page = (Path(__file__).parent.parent / "docs" / "deviations.md").read_text(encoding="utf-8")
    names = re.findall(r"^\|.*\| `(\w+)` \|$", page, re.M)
    assert names == list(reference.FAULTS)
    assert "Six faults of published implementations" in page
    assert len(names) == 6


@pytest.mark.parametrize("b2", [0, 0.5, 0.9999])
def test_any_b2(b2, x64):
    grads = make_grads(12)
    updates = run(scale_by_adashift(2, b2=b2), grads)
    assert worst_error(updates, grads, "conv", 2, 0.9, b2, 1e-10, "max") < 1e-12


def test_bias_correction_is_accurate_in_float32():
    """1 - b2^k by subtraction would miss this by 2e-5."""
    grads = [{"w": np.ones(2, np.float32)}] * 4
    updates = run(scale_by_adashift(1, 0, 0.9999, phi="none"), grads)
    for u in updates[1:]:
        np.testing.assert_allclose(u["w"], 1.0, rtol=1e-6)


def test_v_is_not_biased_in_float32():
    """b2 v + (1 - b2) x in float32 would move all updates by 6e-6: b2 = 0.999 is off by 1e-8."""
    grads = np.random.default_rng(0).standard_normal((2000, 400)).astype(np.float32)
    updates = random_cases.run(scale_by_adashift(1, 0, phi="none"), grads, jnp.zeros(400))
    wanted, _ = reference.adashift(list(grads), 1, 0, 0.999, 1e-10, "none")
    # Of single updates rounding moves v by more, but not of all of them in one direction.
    assert abs(np.mean(updates[-1] / wanted[-1] - 1)) < 1e-6


def test_at_b1_0_and_n_1_it_is_unclipped_adopt_up_to_bias_correction(x64):
    """optax.contrib.adopt with its v started at g_1^2 keeps b2^k g_1^2 more than our v."""
    grads = [{"w": g["vector"]} for g in make_grads(8)]
    b2 = 0.9
    ours = run(scale_by_adashift(1, 0, b2, eps=0, phi="none"), grads)
    tx = optax.chain(
        optax.contrib.adopt(-1.0, b1=0.0, b2=b2, eps=1e-300, use_clipping=False),
    )
    adopt = run(tx, grads)
    v = 0.0
    for t in range(1, 8):
        v = b2 * v + (1 - b2) * grads[t - 1]["w"] ** 2
        vhat, theirs = v / (1 - b2**t), v + b2**t * grads[0]["w"] ** 2
        np.testing.assert_allclose(ours[t]["w"] * np.sqrt(vhat), adopt[t]["w"] * np.sqrt(theirs))


def test_aliases_scale_and_decay():
    """Of gradients that stay as they are: m is g, and v the largest g^2 of the leaf."""
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([3.0])}
    wanted = {"a": np.array([0.5, -1.0]), "b": np.array([1.0])}
    for tx, decay in (
        (adashift(0.5, 2), {"a": 0, "b": 0}),
        (adashiftw(0.5, 2, weight_decay=0.1, mask={"a": True, "b": False}), {"a": 0.1, "b": 0}),
    ):
        state = tx.init(params)
        for t in range(1, 6):
            updates, state = tx.update(params, state, params)
            for name, u in wanted.items():
                want = -0.5 * ((t > 2) * u + decay[name] * params[name])
                np.testing.assert_allclose(updates[name], want, rtol=1e-6)
