"""Every bad argument gets one error that names the argument, the rule, the value and the remedy.

An array that is there is checked like a number, and every number after it was rounded to the width
in which it is used. Tracers pass: nothing is known of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from common import scan

from adashift_optax import (
    STATIC_ARGS,
    adashift,
    adashift_factored,
    adashiftw,
    scale_by_adashift,
    scale_by_adashift_factored,
)

V, T = ValueError, TypeError
PAPER = (scale_by_adashift, lambda **k: adashift(0.1, **k), lambda **k: adashiftw(0.1, **k))
FACTORED = (scale_by_adashift_factored, lambda **k: adashift_factored(0.1, **k))
WITH_RATE = (adashift, adashiftw, adashift_factored)
WITH_DECAY = (lambda **k: adashiftw(0.1, **k), lambda **k: adashift_factored(0.1, **k))
BOTH = PAPER + FACTORED
SCALAR, UNIT = "{} must be a real scalar; got ", r"{} must be finite and in \[0, 1\); got "

BAD = [
    (PAPER, "n", 0, V, r"n must be a Python int >= 1.*got 0\. Pass e.g. n=10"),
    (PAPER, "n", 10.0, V, "n must be a Python int.*got 10.0"),
    (PAPER, "n", True, V, "n must be a Python int.*got True"),
    (PAPER, "n", 2**31, V, "n must be a Python int.*got 2147483648"),
    (PAPER, "n", jnp.int32(3), V, "n must be a Python int.*STATIC_ARGS"),
    (BOTH, "b1", 1.0, V, UNIT + "1.0. Pass e.g. b1="),
    (BOTH, "b1", -0.1, V, UNIT + "-0.1"),
    (BOTH, "b1", float("nan"), V, UNIT + "nan"),
    (BOTH, "b1", "0.9", T, SCALAR + "'0.9'"),
    (BOTH, "b1", jnp.ones(2), T, SCALAR + r"Array\("),
    (BOTH, "b1", lambda t: 0.9, T, SCALAR + "<function"),
    (BOTH, "b2", 1, V, UNIT + "1. Pass e.g. b2="),
    (BOTH, "b2", 0.9j, T, SCALAR + "0.9j"),
    (BOTH, "b2", None, T, SCALAR + "None"),
    (
        BOTH,
        "b2",
        jnp.bfloat16(0.9),
        V,
        "b2 must be float32 or wider; got bfloat16.*hyperparam_dtype",
    ),
    (BOTH, "eps", -1e-8, V, "eps must be finite and .*got -1e-08"),
    (BOTH, "eps", np.inf, V, "eps must be finite and .*got inf"),
    (PAPER, "phi", "median", V, "phi must be 'max', 'mean', 'none' or a callable; got 'median'"),
    (PAPER, "phi", None, V, "phi must be .*; got None"),
    (PAPER, "phi", "factored", V, "phi must be .*; got 'factored'"),
    (PAPER, "block_axes", 1, T, r"block_axes must be .*a tuple of ints.*got 1\. Pass"),
    (PAPER, "block_axes", "outputs", T, "block_axes must be .*got 'outputs'"),
    (PAPER, "block_axes", ("x",), T, r"block_axes must be .*got \('x',\)"),
    (PAPER, "block_axes", (True,), T, r"block_axes must be .*got \(True,\)"),
    *(
        (
            PAPER,
            "queue_dtype",
            x,
            V,
            "queue_dtype must be None or bfloat16; got .*Pass queue_dtype=",
        )
        for x in ("float33", "int8", "float16", "float32", int, 3)
    ),
    (FACTORED, "mu_dtype", "float16", V, "mu_dtype must be None or bfloat16; got 'float16'"),
    (WITH_RATE, "learning_rate", "0.1", T, SCALAR + "'0.1'"),
    (WITH_RATE, "learning_rate", None, T, SCALAR + "None"),
    (WITH_RATE, "learning_rate", True, T, SCALAR + "True"),
    (WITH_RATE, "learning_rate", np.ones(2), T, SCALAR + r"array\("),
    (WITH_RATE, "learning_rate", np.nan, V, "learning_rate must be finite.*got nan"),
    (WITH_RATE, "learning_rate", -np.inf, V, "learning_rate must be finite.*got -inf"),
    (WITH_DECAY, "weight_decay", -1.0, V, "weight_decay must be finite and .*got -1.0"),
    (WITH_DECAY, "weight_decay", "1", T, SCALAR + "'1'"),
    (WITH_DECAY, "weight_decay", np.nan, V, "weight_decay must be finite.*got nan"),
]


@pytest.mark.parametrize(("makes", "name", "value", "error", "message"), BAD)
def test_bad_argument(makes, name, value, error, message):
    for make in makes:
        with pytest.raises(error, match=f"(?s){message.format(name)}") as e:
            make(**{name: value})
        assert e.type is error  # not one of NumPy's that derives from it


ARRAYS = (jnp.float32, np.array, np.float32, np.float64)
OUTSIDE = {"b1": (-0.5, 1.0), "b2": (1.5, -np.inf), "eps": (-1.0, np.nan), "weight_decay": (-1.0,)}


def test_an_array_out_of_range():
    for name, values in OUTSIDE.items():
        makes = WITH_DECAY if name == "weight_decay" else BOTH
        for make in makes:
            for kind in ARRAYS:
                for value in values:
                    with pytest.raises(ValueError, match=f"{name} must be finite and"):
                        make(**{name: kind(value)})
    for name, value in (("eps", 1e300), ("weight_decay", 1e39)):  # infinite in float32
        with pytest.raises(ValueError, match=name):
            (WITH_DECAY if name == "weight_decay" else BOTH)[0](**{name: value})
    for kind in (jnp.int32, np.int32, np.array):
        with pytest.raises(ValueError, match="b1 must be"):
            scale_by_adashift(kind(1))


def test_arrays_in_range():
    """They give what the numbers give."""
    g = np.ones((5, 2), np.float32)
    for make, extra in ((adashift, {"n": 2}), (adashift_factored, {})):
        found = []
        for kind in (lambda x: x, jnp.float32, np.array):
            tx = make(kind(0.5), kind(0.5), kind(0.75), kind(0.25), **extra)
            found.append(jax.jit(lambda g, tx=tx: scan(tx, g, g[0])[0][-1])(g))
        for u in found:
            np.testing.assert_allclose(u, found[0], rtol=1e-6)
            assert np.all(u < 0)


@pytest.mark.parametrize("axes", [(2,), (-3,), (0, 0), (0, -2)])
def test_axes_out_of_range_name_the_leaf(axes):
    params = {"layer": {"kernel": jnp.ones((2, 3))}}
    message = (
        r"block_axes must be different axes of each leaf; got .*\['layer'\]\['kernel'\] of rank 2"
    )
    for given in (axes, lambda path, leaf: axes):
        with pytest.raises(ValueError, match=message):
            scale_by_adashift(block_axes=given).init(params)


@pytest.mark.parametrize("leaf", [jnp.ones(2, jnp.int32), jnp.ones(2, bool), 1, "text"])
@pytest.mark.parametrize("tx", [scale_by_adashift(), scale_by_adashift_factored()])
def test_parameters_that_are_not_numbers_to_train(tx, leaf):
    with pytest.raises(TypeError, match=r"params must be float or complex; got dtype .*'a'.*optax"):
        tx.init({"a": leaf})


@pytest.mark.parametrize("phi", [lambda g2: g2, lambda g2: jnp.argmax(g2)])
@pytest.mark.parametrize("block_axes", [None, (0,)])
def test_phi_that_gives_no_scalar(phi, block_axes):
    tx = scale_by_adashift(phi=phi, block_axes=block_axes)
    with pytest.raises(ValueError, match=r"phi must be a function .* one real scalar; got shape"):
        tx.update(jnp.ones((2, 3)), tx.init(jnp.ones((2, 3))))


@pytest.mark.parametrize(("block_axes", "seen"), [(None, (6, 2)), ((0,), (6,)), ((1, 0), (6, 2))])
def test_a_callable_phi_sees_the_reduced_axes_alone(block_axes, seen):
    """And float32 squares, whatever the gradient is. A leaf of size 0 is not shown."""
    shapes = []

    def phi(g2):
        shapes.append((g2.shape, g2.dtype))
        return jnp.max(g2)

    params = {"a": jnp.ones((6, 2), jnp.float16), "b": jnp.ones((0, 2), jnp.float16)}
    tx = scale_by_adashift(n=1, phi=phi, block_axes=block_axes)
    tx.update(params, tx.init(params))
    assert set(shapes) == {(seen, jnp.dtype(jnp.float32))}


def test_narrow_dtypes_and_complex_parameters():
    params = {"a": jnp.ones(2, jnp.complex64)}
    for make, name in (
        (scale_by_adashift, "queue_dtype"),
        (scale_by_adashift_factored, "mu_dtype"),
    ):
        with pytest.raises(TypeError, match=rf"{name} must be None for complex .*bfloat16.*'a'"):
            make(**{name: jnp.bfloat16}).init(params)
        make(**{name: jnp.bfloat16}, b1=0).init(params)  # where nothing is narrow, nothing is wrong


def test_traced_n_is_told_to_be_static():
    with pytest.raises(ValueError, match=r"n must be a Python int.*STATIC_ARGS"):
        optax.inject_hyperparams(adashift)(0.1, n=10).init(jnp.ones(2))
    with pytest.raises(ValueError, match="n must be a Python int"):
        jax.jit(lambda n: scale_by_adashift(n=n).init(jnp.ones(2)))(3)


def test_tracers_pass(x64):
    """Of b1, b2 and eps that are vmapped nothing can be known: they give what numbers give."""
    g = np.random.default_rng(0).standard_normal((9, 3))
    rows = np.array([[0.9, 0.999, 1e-10], [0, 0, 1], [0.5, 0.5, 3]])

    def run(make, *args):
        tx = make(*args)
        return jax.lax.scan(lambda s, g: tx.update(g, s)[::-1], tx.init(g[0]), g)[1]

    for make, of in (
        (lambda *a: scale_by_adashift(*a, n=2), lambda *a: reference.adashift(list(g), 2, *a)),
        (scale_by_adashift_factored, lambda *a: reference.factored(list(g), *a)),
    ):
        found = jax.jit(jax.vmap(lambda *args, make=make: run(make, *args)))(*rows.T)
        for u, args in zip(found, rows, strict=True):
            np.testing.assert_allclose(u, of(*args)[0], rtol=1e-10, atol=1e-12)


def test_extra_args_and_defaults():
    """Positional arguments are in the order of `optax.adam`; n=None is 10."""
    params = jnp.ones(2)
    for tx in (
        adashift(0.1, 0.9, 0.95, 1e-8),
        adashiftw(0.1, n=None),
        adashift_factored(0.1, 0, 0.9),
    ):
        updates, _ = tx.update(params, tx.init(params), params, value=1.0, grad=params)
        assert updates.shape == (2,)
    assert adashift(0.1, n=None).init(params)[0].queue.shape == (11, 2)
    assert adashift_factored(0.1, 0.9, 0.9, 0, "bfloat16").init(params)[0].mu.dtype == jnp.bfloat16
    tx = optax.inject_hyperparams(adashiftw, static_args=STATIC_ARGS)(0.1, n=2, phi=jnp.max)
    assert tx.init(params).inner_state[0].queue.shape == (3, 2)
