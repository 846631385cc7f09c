"""Every bad value gets one error that names the argument, the rule, the value and the remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

from adashift_optax import STATIC_ARGS, adashift, adashiftw, scale_by_adashift

BAD = {
    "n zero": (dict(n=0), ValueError, r"n must be a Python int in \[1, 46340\].*got 0.*Pass"),
    "n float": (dict(n=10.0), ValueError, "n must be a Python int.*got 10.0"),
    "n bool": (dict(n=True), ValueError, "n must be a Python int.*got True"),
    "n array": (dict(n=jnp.int32(3)), ValueError, "n must be a Python int.*static_args"),
    "b1 one": (dict(b1=1.0), ValueError, r"b1 must be in \[0, 1\).*got 1.0.*Pass"),
    "b1 negative": (dict(b1=-0.1), ValueError, r"b1 must be in \[0, 1\).*got -0.1"),
    "b1 nan": (dict(b1=float("nan")), ValueError, r"b1 must be in \[0, 1\).*got nan"),
    "b1 text": (dict(b1="0.9"), TypeError, "b1 must be a real scalar; got '0.9'"),
    "b1 vector": (dict(b1=jnp.ones(2)), TypeError, r"b1 must be a real scalar; got Array\("),
    "b2 one": (dict(b2=1), ValueError, r"b2 must be in \[0, 1\).*got 1\."),
    "b2 bfloat16": (dict(b2=jnp.bfloat16(0.9)), ValueError, "b2 .*bfloat16.*hyperparam_dtype"),
    "eps negative": (dict(eps=-1e-8), ValueError, "eps must be finite and >= 0; got -1e-08"),
    "eps infinite": (dict(eps=np.inf), ValueError, "eps must be finite and >= 0; got inf"),
    "phi unknown": (
        dict(phi="median"),
        ValueError,
        "phi must be 'max' or .*'factored'; got 'median'",
    ),
    "phi None": (dict(phi=None), ValueError, "phi must be 'max' or .*; got None"),
    "window unknown": (dict(window="jump"), ValueError, "window must be 'sliding' or .*got 'jump'"),
    "axes int": (dict(block_axes=1), TypeError, r"block_axes must be .*a tuple of ints.*got 1\."),
    "axes word": (
        dict(block_axes="out"),
        TypeError,
        'block_axes must be None, "outputs".*got .out',
    ),
    "axes text": (dict(block_axes=("x",)), TypeError, r"block_axes must be .*got \('x',\)"),
    "queue int8": (
        dict(queue_dtype="int8"),
        ValueError,
        "queue_dtype must be None or .*int8",
    ),
    "mu float8": (
        dict(mu_dtype="float8_e5m2"),
        ValueError,
        "mu_dtype must be None or one of float32, bfloat16, float16; got 'float8_e5m2'. Pass",
    ),
    "mu int": (dict(mu_dtype=int), ValueError, "mu_dtype must be None or .*got <class 'int'>"),
    "warm text": (dict(warm_start="no"), TypeError, "warm_start must be True or False.*got 'no'"),
    "warm int": (dict(warm_start=1), TypeError, "warm_start must be True or False.*got 1. Pass"),
    "warm array": (
        dict(warm_start=jnp.array(True)),
        TypeError,
        "warm_start must be True or False, known before jit.*static_args.*STATIC_ARGS",
    ),
    "b2 text": (dict(b2="0.9"), TypeError, "b2 must be a real scalar; got '0.9'.*a schedule such"),
    "n huge": (dict(n=10**6), ValueError, "n must be .* 46340.*got 1000000"),
    "clip zero": (dict(clip_value=0), ValueError, "clip_value must be at least .*got 0"),
    "clip negative": (dict(clip_value=-1.0), ValueError, "clip_value must be .*got -1.0"),
    "clip text": (dict(clip_value="1"), TypeError, "clip_value must be a real scalar; got '1'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_argument(case):
    kwargs, error, message = BAD[case]
    for make in (
        scale_by_adashift,
        lambda **k: adashift(0.1, **k),
        lambda **k: adashiftw(0.1, **k),
    ):
        with pytest.raises(error, match=f"(?s){message}"):
            make(**kwargs)


def test_bad_weight_decay():
    with pytest.raises(ValueError, match=r"weight_decay must be finite and >= 0; got -1.0\. Pass"):
        adashiftw(0.1, weight_decay=-1.0)


@pytest.mark.parametrize("axes", [(2,), (-3,), (0, 0), (0, -2)])
def test_axes_out_of_range_name_the_leaf(axes):
    params = {"layer": {"kernel": jnp.ones((2, 3))}}
    with pytest.raises(
        ValueError, match=r"block_axes must name .*\['layer'\]\['kernel'\] of rank 2"
    ):
        scale_by_adashift(block_axes=axes).init(params)
    with pytest.raises(ValueError, match=r"\['layer'\]\['kernel'\]"):
        scale_by_adashift(block_axes=lambda path, leaf: axes).init(params)


@pytest.mark.parametrize("leaf", [jnp.ones(2, jnp.int32), jnp.ones(2, bool), 1, "text"])
def test_parameters_that_are_not_numbers_to_train(leaf):
    with pytest.raises(
        TypeError, match=r"params must be float or complex; got dtype .*\['a'\].*optax"
    ):
        scale_by_adashift().init({"a": leaf})


@pytest.mark.parametrize("phi", [lambda g2: g2, lambda g2: jnp.argmax(g2)])
@pytest.mark.parametrize("block_axes", [None, (0,)])
def test_phi_that_gives_no_scalar(phi, block_axes):
    tx = scale_by_adashift(phi=phi, block_axes=block_axes)
    with pytest.raises(ValueError, match=r"phi must map .* one real scalar"):
        tx.update(jnp.ones((2, 3)), tx.init(jnp.ones((2, 3))))


@pytest.mark.parametrize("phi", ["max", "none"])
def test_updates_that_are_not_what_init_saw(phi):
    tx = scale_by_adashift(phi=phi)
    state = tx.init({"a": jnp.ones(2), "b": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"belong together.*at .mu\['b'\].*init again"):
        tx.update({"a": jnp.ones(2)}, state)
    with pytest.raises(ValueError, match=r"float32\[3\] at .*'b'\].*makes float32\[4\] at"):
        tx.update({"a": jnp.ones(2), "b": jnp.ones(4)}, state)
    with pytest.raises(ValueError, match=r"at \.(mu|nu|queue).* init makes "):
        tx.update({"a": jnp.ones(2), "b": jnp.ones(3, jnp.complex64)}, state)
    with pytest.raises(TypeError, match=r"updates must be float or complex.*int32 at \['b'\]"):
        tx.update({"a": jnp.ones(2), "b": jnp.ones(3, jnp.int32)}, state)


def test_traced_n_is_told_to_be_static():
    with pytest.raises(ValueError, match=r"n must be a Python int.*static_args.*STATIC_ARGS"):
        optax.inject_hyperparams(adashift)(0.1, n=10).init(jnp.ones(2))
    with pytest.raises(ValueError, match="n must be a Python int"):
        jax.jit(lambda n: scale_by_adashift(n).init(jnp.ones(2)))(3)


@pytest.mark.parametrize("make", [adashift, adashiftw])
def test_injected_hyperparams_are_used(make, x64):
    """Traced b1, b2, eps, clip_value and schedules give what the reference gives for numbers."""
    kwargs = dict(n=3, b1=0.8, b2=0.99, eps=1e-2, clip_value=0.9)
    grads = list(np.random.default_rng(0).standard_normal((12, 5)))
    tx = optax.inject_hyperparams(make, static_args=STATIC_ARGS)(lambda t: 0.1, **kwargs)
    params = jnp.zeros(5)  # which do not decay
    state = tx.init(params)
    assert set(state.hyperparams) >= {"learning_rate", "b1", "b2", "eps", "clip_value"}
    want, _ = reference.adashift(grads, 3, 0.8, 0.99, 1e-2, "max", clip=0.9)
    with jax.numpy_dtype_promotion("standard"):
        step = jax.jit(tx.update)
        for g, u in zip(grads, want, strict=True):
            updates, state = step(g, state, params)
            np.testing.assert_allclose(updates, -0.1 * u, rtol=1e-12, atol=1e-15)
    assert np.all(updates != 0)


def test_inject_hyperparams_into_bfloat16_needs_a_wide_dtype():
    """b2 = 0.999 would arrive as 1.0: refused, with the remedy, and the remedy works."""
    params = jnp.ones(4, jnp.bfloat16)
    inject = optax.inject_hyperparams
    with pytest.raises(ValueError, match=r"hyperparam_dtype=jnp\.float32"):
        inject(adashift, STATIC_ARGS)(0.1, n=1).init(params)
    tx = inject(adashift, STATIC_ARGS, hyperparam_dtype=jnp.float32)(0.1, n=1)
    state = tx.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(3):
            updates, state = tx.update(params, state, params)
    np.testing.assert_allclose(np.asarray(updates, np.float32), -0.1, rtol=1e-2)


def test_static_args_are_arguments_of_every_optimizer():
    for make in (scale_by_adashift, adashift, adashiftw):
        optax.inject_hyperparams(make, static_args=STATIC_ARGS)


def test_extra_args_are_accepted():
    for make in (scale_by_adashift(2), adashift(0.1, 2), adashiftw(0.1, 2)):
        params = jnp.ones(2)
        make.update(params, make.init(params), params, value=1.0, grad=params)


@pytest.mark.parametrize("name", ["queue_dtype", "mu_dtype"])
def test_narrow_dtypes_and_complex_parameters(name):
    with pytest.raises(TypeError, match=rf"{name} must be None for complex .*bfloat16.*'a'"):
        scale_by_adashift(**{name: jnp.bfloat16}).init({"a": jnp.ones(2, jnp.complex64)})


@pytest.mark.parametrize("value", [jnp.ones(2), 0.5j, None, True, "0.9"])
@pytest.mark.parametrize("kwargs", [{}, {"window": "hopping", "phi": "none"}, {"n": 1}], ids=str)
def test_b2_that_gives_no_scalar(kwargs, value):
    tx = scale_by_adashift(b2=lambda k: value, **kwargs)
    with pytest.raises(TypeError, match=r"b2 must be a real scalar; got .*a schedule such as"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


def test_state_of_another_optimizer_or_n():
    params = jnp.ones(2)
    with pytest.raises(TypeError, match=r"state must be the ScaleByAdashiftState.*got ScaleByAdam"):
        scale_by_adashift().update(params, optax.scale_by_adam().init(params))
    tx = scale_by_adashift(10, window="hopping")
    for other, name in [
        (scale_by_adashift(3, window="hopping"), "n=3,window=hopping,queue_dtype=None"),
        (scale_by_adashift(10), "n=10,window=sliding,queue_dtype=None"),
        (scale_by_adashift(10, queue_dtype="float16"), "n=10,window=sliding,queue_dtype=float16"),
        (scale_by_adashift(10, window="ema"), "n=10,window=ema,queue_dtype=None"),
        (
            scale_by_adashift(10, window="hopping", warm_start=True),
            "n=10,window=hopping,queue_dtype=None,warm_start=True",
        ),
    ]:
        message = f"{name}'], where init makes .*n=10,window=hopping,queue_dtype=None.*call init"
        with pytest.raises(ValueError, match=message):
            jax.jit(tx.update)(params, other.init(params))
    # Where n, window and queue_dtype have no part in it, they do not tell states apart.
    same = [dict(window="hopping"), dict(window="ema"), dict(queue_dtype="bfloat16"), {}]
    kinds = {*(str(scale_by_adashift(4, b1=0, **kwargs).init(params).clock) for kwargs in same)}
    assert len(kinds) == 1
