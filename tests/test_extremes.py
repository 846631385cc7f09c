"""Numbers at the ends of their range: complex ones, the largest, and powers of 2.

What a formula in real numbers keeps finite and exact is finite and exact here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_cases as cases
from common import rising
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from random_cases import Leaf

from adashift_optax import scale_by_adashift

LARGEST = {"float32": np.finfo("f4").max, "complex64": np.finfo("f4").max}
LARGEST |= {"float64": np.finfo("f8").max, "complex128": np.finfo("f8").max}


@pytest.fixture(autouse=True)
def _in_64_bits():
    with jax.enable_x64(True):
        yield


def scan(tx, grads):
    grads = jax.tree.map(jnp.asarray, grads)
    return cases.scan(tx, grads, jax.tree.map(lambda g: jnp.zeros_like(g[0]), grads))


def scan_all(txs, grads):
    """The updates of all steps of each optimizer, [steps, ...], from one program."""
    return jax.jit(lambda grads: {name: scan(tx, grads) for name, tx in txs.items()})(grads)


def test_a_huge_complex_gradient_after_tiny_ones():
    """The smallest case: magnitude 1, as for real gradients."""
    tx = scale_by_adashift(2, clip_value=1.0)
    tiny = np.full(2, 1e-10, np.complex64)
    state = tx.init(tiny)
    for g in (tiny, tiny, tiny, np.array([1e30, 1e-10], np.complex64)):
        u, state = tx.update(g, state)
    np.testing.assert_allclose(u, [1, 0.5], rtol=1e-5)


HUGE = [1e30 + 1e30j, -1e30j, 3e38j, 3.39e38 - 3.39e38j, 1e38 + 1e-38j]
COMPLEX = [
    {"phi": "max"},
    {"phi": "max", "window": "hopping"},
    {"phi": "mean", "b1": 0},
    {"phi": "none", "window": "hopping"},
    {"phi": "factored"},
    {"phi": "max", "window": "ema", "n": 1},
]


@pytest.mark.parametrize("before", [1e-15, 1.0])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_huge_complex_gradients(before, clip):
    """Each of HUGE once among small ones: the direction and, clipped, the magnitude are right."""
    steps, n = 8, 2
    tree = {str(z): Leaf((2, 2), "complex64", None) for z in HUGE}
    grads = {str(z): np.full((steps, 2, 2), before, np.complex64) for z in HUGE}
    for z in HUGE:
        grads[str(z)][4, 0, 0] = z
    args = {"n": n, "b1": 0.9, "b2": 0.9, "eps": 1e-20, "window": "sliding", "clip_value": clip}
    txs = {str(kwargs): scale_by_adashift(**args | kwargs) for kwargs in COMPLEX}
    wrong = []
    for name, updates in scan_all(txs, grads).items():
        kwargs = next(kwargs for kwargs in COMPLEX if str(kwargs) == name)
        for key, u in updates.items():
            want, allowed = cases.expected(tree[key], grads[key], **args | kwargs)
            error = np.abs(np.asarray(u, complex) - want)[:5]  # until it came
            allowed = allowed[:5] + 2 * np.finfo(np.float32).eps * np.abs(want[:5])
            if not (np.all(np.isfinite(u)) and np.all(error <= allowed)):
                wrong.append(f"{name} {key}: {u[4, 0, 0]} for {want[4, 0, 0]}")
    assert not wrong


@pytest.mark.parametrize(("b1", "b2"), [(0.0, 0.9), (1e-30, 0.9), (0.9, 0.0)])
def test_decays_that_are_arrays_with_complex_gradients(b1, b2):
    """The weights of a window are real: a complex power of 0 is NaN."""
    leaf = Leaf((2, 3), "complex64", None)
    grads = cases.gradients(leaf, 12, "plain", 0)
    args = {"n": 3, "eps": 1e-10}
    kinds = [{"phi": p, "window": w} for p in cases.PHIS for w in ("sliding", "hopping", "ema")]
    decays = {"b1": jnp.float32(b1), "b2": jnp.float32(b2)}
    txs = {str(k): scale_by_adashift(**args, **decays, **cases.library(k)) for k in kinds}
    updates = scan_all(txs, grads)
    for kwargs in kinds:
        want, allowed = cases.expected(leaf, grads, **args, b1=b1, b2=b2, **kwargs)
        cases.assert_within(updates[str(kwargs)], want, allowed + 1e-5 * np.abs(want))


def test_complex_parameters_where_there_is_no_queue():
    """queue_dtype is without effect there, so that there is nothing to refuse."""
    params = jnp.ones(3, jnp.complex64)
    for kwargs in ({"window": "hopping"}, {"b1": 0}, {"n": 1}):
        tx = scale_by_adashift(**{"n": 2, "queue_dtype": "bfloat16", **kwargs})
        state = tx.init(params)
        for _ in range(4):
            updates, state = tx.update(params, state)
        np.testing.assert_allclose(updates, 1, rtol=1e-5)


def test_refused_complex_gradients_name_the_remedy():
    real, complex_ = jnp.ones(3), jnp.ones(3, jnp.complex64)
    tx = scale_by_adashift(2)
    with pytest.raises(ValueError, match=r"jnp\.real"):
        tx.update(complex_, tx.init(real))
    with pytest.raises(ValueError, match=r"astype"):
        tx.update(real, tx.init(complex_))


B1 = (0.1, 0.9, 0.95, 0.999)


@pytest.mark.parametrize("window", ["sliding", "hopping"])
@pytest.mark.parametrize("dtype", LARGEST)
def test_the_largest_number_for_many_steps(dtype, window):
    """What jnp.nan_to_num makes of an infinite gradient. Its squares overflow: v stays at 1."""
    sizes = (2, 3, 5, 10, 40) if dtype == "float32" else (3, 10)
    grads, largest = np.ones((100, 2), dtype), LARGEST[dtype]
    grads[41:81] = [largest, -largest]
    kwargs = {"window": window, "clip_value": 1.0}
    txs = {(n, b1): scale_by_adashift(n, b1, **kwargs) for n in sizes for b1 in B1}
    if window == "sliding" and not dtype.startswith("complex"):
        queues = ("float32", "bfloat16", "float16", "float8_e5m2", "float8_e4m3fn")
        txs |= {
            (q, b1): scale_by_adashift(4, b1, queue_dtype=q, **kwargs) for q in queues for b1 in B1
        }
    if not dtype.startswith("complex"):
        txs |= {
            (4, b1, mu): scale_by_adashift(4, b1, mu_dtype=mu, **kwargs)
            for mu in ("bfloat16", "float16")
            for b1 in B1
        }
    updates = scan_all({str(name): tx for name, tx in txs.items()}, grads)
    wrong = {}
    for name, u in updates.items():
        # Filled with it, m is it; the hopping window forgets it after n more steps.
        right = np.allclose(u[80], [1, -1], rtol=1e-5)
        if window == "hopping" and not name.startswith("(40"):
            right = right and np.allclose(u[-1], 1, rtol=1e-4)
        if not (right and np.all(np.isfinite(u))):
            wrong[name] = u[80], u[-1]
    assert wrong == {}


@pytest.mark.parametrize("dtype", LARGEST)
def test_the_largest_number_scaled_first(dtype):
    """Each s is 1 or, clipped, -1, and u is their mean."""
    n, grads, kwargs = 3, np.ones((100, 2), dtype), {"window": "ema", "clip_value": 1.0}
    grads[41:81] = [LARGEST[dtype], -LARGEST[dtype]]
    txs = {str(b1): scale_by_adashift(n, b1, **kwargs) for b1 in B1}
    updates = scan_all(txs, grads)
    for b1 in B1:
        w = b1 ** np.arange(100.0 - n)[::-1]
        want = w @ np.sign(grads[n:].real) / w.sum()
        np.testing.assert_allclose(updates[str(b1)][-1], want, rtol=1e-4, atol=1e-5)


def test_the_largest_s_in_a_narrow_m():
    """bfloat16 rounds (1 - b1) s up, before it is divided by 1 - b1."""
    kwargs = {"window": "ema", "mu_dtype": "bfloat16", "eps": 0}
    txs = {str(b1): scale_by_adashift(1, b1, **kwargs) for b1 in np.linspace(0.3, 0.98, 35)}
    grads = np.array([1e-15, LARGEST["float32"], LARGEST["float32"]], np.float32)
    for b1, u in scan_all(txs, grads).items():
        assert np.all(np.isfinite(u)), b1
        assert np.all(u[1:] > 1e37), b1


MEANS = [{"phi": phi, "b2": b2} for phi in ("max", "mean", "none", "factored") for b2 in (0, 0.9)]
MEANS += [{"phi": phi, "b2": 0.999} for phi in ("max", "mean", "none", "factored")]
MEANS += [{**kwargs, "window": "hopping"} for kwargs in MEANS]
MEANS += [{"phi": "mean", "block_axes": (0,)}, {"phi": "mean", "block_axes": (1,)}]
MEANS += [{"phi": phi, "window": "ema", "n": 1} for phi in ("max", "mean", "none", "factored")]
MEANS += [{"phi": phi, "b2": rising, "warm_start": True} for phi in ("max", "mean", "none")]


@pytest.mark.parametrize("dtype", LARGEST)
def test_squares_near_the_largest_number(dtype):
    """Neither v, a weighted mean, nor vhat overflows, nor a mean over 32 elements: the update is 1.

    A square, or a sum of squares, above half of the largest number counts as overflow.
    """
    for g in (np.sqrt(LARGEST[dtype] / 2) * 0.999999, np.sqrt(LARGEST[dtype] / 6)):
        for summed in (False, True):
            txs = {
                str(kwargs): scale_by_adashift(**{"n": 2, **kwargs})
                for kwargs in MEANS
                if (kwargs["phi"] in ("mean", "factored")) == summed
            }
            grads = np.full((30, 4, 8), g / (32**0.5 if summed else 1), dtype)
            found = {k: np.abs(np.asarray(u))[2:] for k, u in scan_all(txs, grads).items()}
            wrong = {k: u[-1, 0, 0] for k, u in found.items() if not np.allclose(u, 1, rtol=1e-5)}
            assert wrong == {}


def test_a_mean_across_shards():
    """The sum over the devices that share a leaf does not overflow: it is one of means."""
    tx = scale_by_adashift(1, phi="mean", axis_name="x")
    g = jnp.full(8, 1e19, jnp.float32)
    state = tx.init(g)
    step = jax.jit(
        jax.shard_map(
            tx.update,
            mesh=jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,)),
            in_specs=(P("x"), jax.tree.map(lambda x: P(), state)),
            out_specs=(P("x"), jax.tree.map(lambda x: P(), state)),
        )
    )
    for _ in range(3):
        u, state = step(g, state)
    np.testing.assert_allclose(u, 1, rtol=1e-5)


@pytest.mark.parametrize("mu_dtype", ["float32", "bfloat16", "float16"])
def test_gradients_outside_the_dtype_of_m(mu_dtype):
    """Of float64 m holds 0 or its largest number, and updates are finite; s = 1 is held by "ema".

    Without eps the scale of 1e-60 is infinite in float32.
    """
    windows = ("sliding", "hopping", "ema")
    txs = {w: scale_by_adashift(2, eps=0, window=w, mu_dtype=mu_dtype) for w in windows}
    updates = scan_all(txs, np.outer(np.ones(8), [1e-60, -1e-60]))
    for window, u in updates.items():
        held = window == "ema"
        np.testing.assert_allclose(u[-1], [held, -1.0 * held], rtol=2**-6, err_msg=window)
    for u in scan_all(txs, np.outer(np.ones(8), [1e60, -1e60])).values():
        assert np.all(np.isfinite(u))
        assert np.all(u[-1] * np.array([1.0, -1.0]) > 0)


@pytest.mark.parametrize("how", ["eager", "jit"])
@pytest.mark.parametrize("queue", ["bfloat16", "float16", "float8_e5m2", "float8_e4m3fn"])
@pytest.mark.parametrize(("dtype", "largest"), [("float32", 60), ("float64", 500)])
def test_what_the_queue_can_hold_is_not_changed(dtype, largest, queue, how):
    """Blocks of 2^k times numbers with 2 digits, for all k: the update is their ratio, exactly."""
    powers = 2.0 ** np.arange(-largest, largest + 1, 1 if dtype == "float32" else 7)
    digits = np.array([1.75, 1, -0.5, 1.25, 0])
    first = np.broadcast_to(powers[:, None], (len(powers), len(digits))).astype(dtype)
    later = [jnp.asarray(powers[:, None] * digits * scale, dtype) for scale in (1, 0.5, 2)]
    # With b2 = 0 v is one square, a power of 2 whose root and inverse are exact; and b1 is 0, but
    # an array, so that m is what the queue was given.
    tx = scale_by_adashift(2, jnp.float32(0), 0, 0, phi="none", block_axes=(1,), queue_dtype=queue)
    update = jax.jit(tx.update) if how == "jit" else tx.update
    for g in later:
        state = tx.init(first)
        for x in (first, first, g):
            u, state = update(jnp.asarray(x), state)
        ratio = np.asarray(g) / first
        wrong = np.any(np.asarray(u) != ratio, axis=1)
        assert not np.any(wrong), f"{np.sum(wrong)} of {len(powers)} blocks"
