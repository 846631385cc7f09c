"""Updates, states and parameters that do not belong together: one clear error each.

Never a silent wrong update. Bad values of arguments are in `test_bad_arguments.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adashift_optax import (
    adashift,
    adashift_factored,
    adashiftw,
    scale_by_adashift,
    scale_by_adashift_factored,
)

ONES, INTS, COMPLEX = np.ones(3, np.float32), np.ones(3, np.int32), np.ones(3, np.complex64)
MATRIX = np.ones((3, 4), np.float32)
TREE = {"a": MATRIX, "b": MATRIX}
RENAMED = {"a": MATRIX, "c": MATRIX}
V, T = ValueError, TypeError


def paper(**kwargs):
    return scale_by_adashift(**{"n": 2, **kwargs})


factored = scale_by_adashift_factored


def update(grads, init=None, tx=None, params=TREE, change=lambda state: state):
    """Traces an update of `tx` with the state of `init`, changed; each is the other's default."""

    def call():
        state = change((init or tx or paper()).init(params))
        return jax.eval_shape((tx or init or paper()).update, grads, state)

    return call


def decayed(params, make=adashiftw, grads=TREE, **kwargs):
    def call():
        tx = make(0.1, **kwargs)
        return jax.eval_shape(tx.update, grads, tx.init(TREE), params)

    return call


def apart(found, wanted=""):
    """What is said of a leaf of the state where init would have made another."""
    start = "state and updates must be of one optimizer; got a state with"
    return rf"{start} .*{found}, where init makes .*{wanted} for these updates\. Pass .*init again"


def narrowed(state):
    return jax.tree.map(lambda x: x.astype("bfloat16") if x.dtype == jnp.float32 else x, state)


NO_STATE = "state must be the ScaleByAdashift{}State that init .*; got {}.* Keep one state"
NO_NUMBER = r"{} must be float or complex; got dtype {}.*optax.masked"
KEY = jax.random.key(0)
FLOAT0 = jax.grad(lambda x: 1.0, allow_int=True)(INTS)
LAYOUTS = {
    "max": paper(),
    "none": paper(phi="none"),
    "none b1=0": paper(phi="none", b1=0),
    "axes b1=0": paper(block_axes=(0,), b1=0),
    "bfloat16": paper(queue_dtype="bfloat16"),
    "factored": factored(),
    "factored b1=0": factored(0),
}
OF_OTHERS = {  # the state of the first in an update of the second, and what is said
    "n": (paper(n=3), paper(), r"float32\[4,.*", r"float32\[3,.*"),
    "n, b1=0": (
        paper(n=3, b1=0),
        paper(b1=0),
        r"\[4, 2\] at nu_queue/0",
        r"\[3, 2\] at nu_queue/0",
    ),
    "queue_dtype": (
        paper(queue_dtype="bfloat16"),
        paper(),
        "uint16.* at queue.*",
        "float32.* at queue.*",
    ),
    "max to none": (paper(), paper(phi="none"), "at nu.*", "at nu.*"),
    "none to max": (paper(phi="none"), paper(), "at nu.*", "at nu.*"),
    "none to axes": (paper(phi="none"), paper(block_axes=()), "nothing more", "at nu_queue.*"),
    "axes to max": (paper(block_axes=(0,)), paper(), "at nu.*", "at nu.*"),
    "b1 to 0": (paper(), paper(b1=0), "at mu.*", "at nu.*"),
    "b1 from 0": (paper(b1=0), paper(), "at nu.*", "at mu.*"),
    "mu_dtype": (
        factored(mu_dtype="bfloat16"),
        factored(),
        "bfloat16.* at mu.*",
        "float32.* at mu.*",
    ),
    "factored b1": (factored(0), factored(), "at rows.*", "at mu.*"),
}

BAD = {
    # Updates of another tree, of other shapes that broadcast, of other kinds of numbers
    **{f"names, {k}": (update(RENAMED, tx), V, apart("/b", "/c")) for k, tx in LAYOUTS.items()},
    **{
        f"shapes, {k}": (update({**TREE, "a": MATRIX[:1]}, tx), V, apart("3.*", "1.*"))
        for k, tx in LAYOUTS.items()
        if k != "axes b1=0"
    },
    "a list for a dict": (update([MATRIX, MATRIX]), V, apart("mu/a", "mu/0")),
    "fewer leaves": (
        update({"a": MATRIX}, paper(b1=0)),
        V,
        apart(r"\[2\] at nu.*", r"\[1\] at nu.*"),
    ),
    "no leaves": (update({}), V, apart("mu/a")),
    "more than no leaves": (update(TREE, params=None), V, apart("nu.*", "mu/a")),
    "complex for real": (update(COMPLEX, params=ONES), V, apart("float32.*mu", "complex64.*mu")),
    "float0": (
        lambda: paper().update(FLOAT0, paper().init(ONES)),
        T,
        NO_NUMBER.format("updates", "float0"),
    ),
    "string": (
        lambda: paper().update("g", paper().init(ONES)),
        T,
        NO_NUMBER.format("updates", "<U"),
    ),
    "ints": (update({**TREE, "b": INTS}), T, NO_NUMBER.format("updates", r"int32 at \['b'\]")),
    "init long double": (
        lambda: factored().init(np.ones(2, np.longdouble)),
        T,
        NO_NUMBER.format("params", ""),
    ),
    # States of something else
    **{
        f"state of {k}": (update(TREE, a, b), V, apart(*said))
        for k, (a, b, *said) in OF_OTHERS.items()
    },
    "state None": (update(TREE, change=lambda s: None), T, NO_STATE.format("", "NoneType")),
    "state dict": (update(TREE, change=lambda s: s._asdict()), T, NO_STATE.format("", "dict")),
    "state of a chain": (update(TREE, adashift(0.1), paper()), T, NO_STATE.format("", "tuple")),
    "state of Adam": (
        update(TREE, optax.scale_by_adam(), paper()),
        T,
        NO_STATE.format("", "ScaleByAdam"),
    ),
    "state of the other": (
        update(TREE, paper(), factored()),
        T,
        NO_STATE.format("Factored", "ScaleByAdashiftS"),
    ),
    "count a float": (
        update(TREE, change=lambda s: s._replace(count=jnp.float32(3))),
        V,
        apart(r"float32\[\] at count", r"int32\[\] at count"),
    ),
    "counts of copies": (
        update(TREE, change=lambda s: s._replace(slot=jnp.zeros(1, jnp.int32))),
        V,
        apart(r"int32\[1\] at slot"),
    ),
    "narrow state": (update(TREE, change=narrowed), V, apart("bfloat16.* at mu.*")),
    # Parameters, masks and rates
    "params None": (decayed(None), V, "requires the current value of parameters"),  # Optax's
    "factored params None": (decayed(None, adashift_factored, weight_decay=0.1), V, "requires the"),
    "params of other shapes": (
        decayed({**TREE, "a": MATRIX[:1]}),
        V,
        r"params must be of the shapes of updates; got \[1, 4\] for .* of \[3, 4\] at \['a'\]",
    ),
    "params of other names": (decayed(RENAMED), V, "different pytree metadata"),  # JAX's
    "mask called": (
        decayed(TREE, mask=True, weight_decay=jnp.float32(0.1)),
        T,
        r"mask must be .*got True.*a callable mask in static_args",
    ),
    "rates": (
        decayed(TREE, lambda r: adashift(lambda t: ONES)),
        T,
        "learning_rate must be a real scalar",
    ),
    "decays": (
        decayed(TREE, weight_decay=lambda t: 1j),
        T,
        "weight_decay must be a real scalar; got 1j",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_call(case):
    call, error, message = BAD[case]
    with jax.numpy_dtype_promotion("standard"), pytest.raises(error, match=f"(?s){message}") as e:
        call()
    assert e.type is error  # not one of JAX's or NumPy's that derives from it
