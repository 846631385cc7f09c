"""Bad calls of optimizers as a table: name -> (call, type of the error, what its message matches).

`test_hostile.py` makes each, and has those of other functions. Bad n, b1 and so on: that is
`test_arguments.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from adashift_optax import adashift, adashiftw, scale_by_adashift

ONES, INTS, COMPLEX = np.ones(3, np.float32), np.ones(3, np.int32), np.ones(3, np.complex64)
MATRIX = np.ones((3, 4), np.float32)
TREE = {"a": MATRIX, "b": MATRIX}
N = 2


def update(grads, params=TREE, new=None, change=None, init=scale_by_adashift, tx=None, **kwargs):
    """Traces an update of the optimizer of `new` on the state of that of `kwargs`, changed."""

    def run():
        state = init(N, **kwargs).init(params)
        state = change(state) if change else state
        other = tx or scale_by_adashift(N, **(kwargs if new is None else new))
        return jax.eval_shape(other.update, grads, state)

    return run


def concrete(grads, params=ONES):
    """An update that is not traced, for leaves that cannot be."""
    tx = scale_by_adashift(N)
    return lambda: tx.update(grads, tx.init(params))


def decayed(params, grads=TREE, **kwargs):
    def run():
        tx = adashiftw(0.1, N, **kwargs)
        return jax.eval_shape(tx.update, grads, tx.init(TREE), params)

    return run


def scheduled(**kwargs):
    def run():
        tx = adashift(**{"learning_rate": 0.1, "n": N, **kwargs})
        return jax.eval_shape(tx.update, ONES, tx.init(ONES))

    return run


def having(**fields):
    return lambda state: state._replace(**fields)


def clock(make):
    return lambda state: state._replace(clock={k: make(c) for k, c in state.clock.items()})


def with_two_trees(state):
    """The statistics of rows and columns without their means, which older versions did not keep."""
    return state._replace(nu=state.nu[:2], nu_queue=state.nu_queue[:2])


def narrowed(state):
    return jax.tree.map(lambda x: x.astype("bfloat16") if x.dtype == jnp.float32 else x, state)


def init(params, **kwargs):
    return lambda: scale_by_adashift(N, **kwargs).init(params)


RENAMED = {"a": MATRIX, "c": MATRIX}


def apart(old, new):
    """What is said of a leaf of the state where init would have made another."""
    start = "state and updates must belong together; got a state with "
    return rf"{start}.*{old}.*, where init makes .*{new} for these updates.*same phi.*init again"


NAMES = apart(r"\['b'\]", r"\['c'\]")
SHAPES = apart(r"\['a'\]", r"float32\[{}\] at .*\['a'\]")
LAYOUT = apart(r" at \.{}\b", "")
COUNT = apart(r"{} at \.count", r"int32\[\] at \.count")
NO_STATE = "state must be the ScaleByAdashiftState .*got {}. Keep one state"
KIND = apart(r"n={},window={},queue_dtype={}{}'\]", "n=2,window=sliding,queue_dtype=None'.")
NO_NUMBER = r"{} must be float or complex; got dtype {}.*optax.masked"
KEY = jax.random.key(0)
FLOAT0 = jax.grad(lambda x: 1.0, allow_int=True)(INTS)
V, T = ValueError, TypeError

BAD = {
    # Updates of another tree, of the same number of leaves and shapes
    "names": (update(RENAMED), V, NAMES),
    "names, none": (update(RENAMED, phi="none"), V, NAMES),
    "names, hopping": (update(RENAMED, window="hopping"), V, NAMES),
    "names, none, hopping, b1=0": (
        update(RENAMED, phi="none", window="hopping", b1=0),
        V,
        NAMES,
    ),
    "names, none, b1=0": (update(RENAMED, phi="none", b1=0), V, NAMES),
    "names, factored, b1=0": (update(RENAMED, phi="factored", b1=0), V, NAMES),
    "names, axes, b1=0": (update(RENAMED, block_axes=(0,), b1=0), V, NAMES),
    "names, ema": (update(RENAMED, window="ema"), V, NAMES),
    "names, none, ema, warm": (
        update(RENAMED, phi="none", window="ema", warm_start=True),
        V,
        NAMES,
    ),
    "names, float8": (update(RENAMED, queue_dtype="float8_e5m2"), V, NAMES),
    "a list for a dict": (update([MATRIX, MATRIX]), V, apart(r"'a'\]", r"mu\[0\]")),
    "nested": (
        update({"a": {"x": MATRIX}, "b": MATRIX}),
        V,
        apart("'a'", "'a'.*'x'."),
    ),
    "fewer leaves, b1=0": (
        update({"a": MATRIX}, b1=0),
        V,
        apart(r"\[2\] at .nu", r"\[1\] at .nu.*"),
    ),
    "no leaves": (update({}), V, apart(r"\['a'\]", ".nu")),
    "None": (update(None), V, apart(r"\['a'\]", ".nu")),
    "more than no leaves": (update(TREE, None), V, apart(".nu", r"\['a'\]")),
    # Of shapes that broadcast against the state's
    "row": (update({**TREE, "a": MATRIX[:1]}), V, SHAPES.format("1, 4")),
    "scalar": (update({**TREE, "a": MATRIX[0, 0]}), V, SHAPES.format("")),
    "transposed": (update({**TREE, "a": MATRIX.T}), V, SHAPES.format("4, 3")),
    "row, none": (update({**TREE, "a": MATRIX[:1]}, phi="none"), V, SHAPES.format("1, 4")),
    "scalar, none, hopping, b1=0": (
        update({**TREE, "a": MATRIX[0, 0]}, phi="none", window="hopping", b1=0),
        V,
        SHAPES.format(""),
    ),
    "row, factored, b1=0": (
        update({**TREE, "a": MATRIX[:1]}, phi="factored", b1=0),
        V,
        SHAPES.format("1, 1"),
    ),
    "row, ema": (update({**TREE, "a": MATRIX[:1]}, window="ema"), V, SHAPES.format("1, 4")),
    "row, axes, b1=0": (
        update({**TREE, "a": MATRIX[:, :1]}, block_axes=(0,), b1=0),
        V,
        SHAPES.format("1, 1"),
    ),
    # Of dtypes that are no gradients'
    "complex for real": (
        update(COMPLEX, ONES),
        V,
        apart("float32.* .mu", "complex64.* .mu"),
    ),
    "real for complex": (
        update(ONES, COMPLEX),
        V,
        apart("complex64.* .mu", "float32.* .mu"),
    ),
    "float0": (concrete(FLOAT0), T, NO_NUMBER.format("updates", "float0")),
    "key": (concrete(jax.random.split(KEY, 3)), T, NO_NUMBER.format("updates", "key<fry>")),
    "bool": (concrete(ONES > 0), T, NO_NUMBER.format("updates", "bool")),
    "string": (concrete("g"), T, NO_NUMBER.format("updates", "<U")),
    "object": (concrete(object()), T, NO_NUMBER.format("updates", "object")),
    "init float0": (init({"a": FLOAT0}), T, NO_NUMBER.format("params", "float0 at .'a'")),
    "init key": (init(KEY), T, NO_NUMBER.format("params", "key<fry>")),
    "init object": (init(object()), T, NO_NUMBER.format("params", "object")),
    "init longdouble": (init(np.ones(2, np.longdouble)), T, NO_NUMBER.format("params", "float")),
    # States of something else
    "state None": (update(TREE, change=lambda s: None), T, NO_STATE.format("NoneType")),
    "state tuple": (update(TREE, change=tuple), T, NO_STATE.format("tuple")),
    "state dict": (update(TREE, change=lambda s: s._asdict()), T, NO_STATE.format("dict")),
    "state of a chain": (
        update(TREE, init=lambda n: adashift(0.1, n)),
        T,
        NO_STATE.format("tuple"),
    ),
    "chain of a state": (update(TREE, tx=adashift(0.1, N)), V, "updates and states .* same in"),
    "of n": (
        update(TREE, init=lambda n: scale_by_adashift(3)),
        V,
        KIND.format(3, "sliding", None, ""),
    ),
    "of window": (
        update(TREE, window="hopping", new={}),
        V,
        KIND.format(2, "hopping", None, ""),
    ),
    "of queue_dtype": (
        update(TREE, queue_dtype="float16", new={}),
        V,
        KIND.format(2, "sliding", "float16", ""),
    ),
    "of window ema": (update(TREE, window="ema", new={}), V, KIND.format(2, "ema", None, "")),
    "of warm_start": (
        update(TREE, warm_start=True, new={}),
        V,
        KIND.format(2, "sliding", None, ",warm_start=True"),
    ),
    "of mu_dtype": (
        update(TREE, mu_dtype="bfloat16", new={}),
        V,
        apart("bfloat16.* at .mu.*", "float32.* at .mu.*"),
    ),
    "of a b2 schedule": (
        update(TREE, b2=lambda k: 0.9, new={}),
        V,
        apart(r"float32\[\] at \.log_b2", "nothing more"),
    ),
    "of a number b2": (
        update(TREE, new={"b2": lambda k: 0.9}),
        V,
        apart("nothing more", r"float32\[\] at \.log_b2"),
    ),
    "max to none": (update(ONES, ONES, new={"phi": "none"}), V, LAYOUT.format("nu")),
    "none to max": (update(ONES, ONES, phi="none", new={}), V, LAYOUT.format("nu")),
    "max to factored": (update(TREE, new={"phi": "factored"}), V, LAYOUT.format("nu")),
    "factored to max": (update(TREE, phi="factored", new={}), V, LAYOUT.format("nu")),
    "factored, with two trees": (
        update(TREE, phi="factored", change=with_two_trees),
        V,
        apart(r"\.queue\['a'\]", r"\.nu\[2\].*"),
    ),
    "none to axes": (
        update(TREE, phi="none", new={"block_axes": ()}),
        V,
        apart("nothing more", ".nu_queue.*"),
    ),
    "axes to none": (update(TREE, block_axes=(0,), new={"phi": "none"}), V, LAYOUT.format("nu")),
    "axes to max": (update(TREE, block_axes=(0,), new={}), V, LAYOUT.format("nu")),
    "scales of axes": (
        update(
            TREE,
            phi="none",
            queue_dtype="float16",
            block_axes=(0,),
            new={"phi": "none", "queue_dtype": "float16"},
        ),
        V,
        LAYOUT.format("queue.scale"),
    ),
    "b1 to 0": (update(TREE, new={"b1": 0}), V, LAYOUT.format("mu")),
    "b1 from 0": (update(TREE, b1=0, new={}), V, LAYOUT.format("nu")),
    "b1 to 0, none": (
        update(TREE, phi="none", new={"phi": "none", "b1": 0}),
        V,
        LAYOUT.format("mu"),
    ),
    "state without mu": (update(TREE, change=having(mu=None)), V, LAYOUT.format("nu")),
    "state without queue": (update(TREE, change=having(queue=None)), V, LAYOUT.format("nu_queue")),
    "count a float": (
        update(TREE, change=having(count=jnp.float32(3))),
        V,
        COUNT.format(r"float32\[\]"),
    ),
    "count of copies": (
        update(TREE, change=having(count=jnp.zeros(1, jnp.int32))),
        V,
        COUNT.format(r"int32\[1\]"),
    ),
    "clock of copies": (
        update(TREE, change=clock(lambda c: c[None])),
        V,
        apart(r"\[1\] at .clock", ""),
    ),
    "no clock": (update(TREE, change=having(clock=None)), V, apart(r"\.mu.'a'.", ".clock.*")),
    "narrow state": (update(TREE, change=narrowed), V, apart("bfloat16.* at .mu", "")),
    # Parameters, masks and rates
    "params None": (decayed(None), V, "requires the current value of parameters"),  # Optax's
    "params of other shapes": (
        decayed({**TREE, "a": MATRIX[:1]}),
        V,
        r"params must have the shapes .*got \[1, 4\] at \['a'\] for an update of \[3, 4\]",
    ),
    "params of other names": (decayed(RENAMED), V, "different pytree metadata"),  # JAX's
    "mask called": (
        decayed(TREE, mask=True, weight_decay=jnp.float32(0.1)),
        T,
        r"mask must be .*got True.*\(\*STATIC_ARGS, .mask",
    ),
    "mask of other names": (decayed(TREE, mask={"c": True}), V, "different numbers of pytree"),
    "decay text": (decayed(TREE, weight_decay="1"), T, "weight_decay must be a real scalar.*'1'"),
    "decay NaN": (decayed(TREE, weight_decay=np.nan), V, "weight_decay must be finite.*got nan"),
    "rate text": (
        scheduled(learning_rate="0.1"),
        T,
        "learning_rate must be a real scalar; got '0.1'",
    ),
    "rate None": (scheduled(learning_rate=None), T, "learning_rate must be a real .*got None"),
    "rate True": (scheduled(learning_rate=True), T, "learning_rate must be a real .*got True"),
    "rate NaN": (scheduled(learning_rate=np.nan), V, "learning_rate must be finite; got nan"),
    "rate vector": (scheduled(learning_rate=ONES), T, r"learning_rate must be .*array\(\[1"),
    "rates": (scheduled(learning_rate=lambda t: ONES), T, r"learning_rate must .*array\(\[1"),
    "clips": (scheduled(clip_value=lambda t: ONES), T, r"clip_value must be a real .*array\(\[1"),
    "b2s": (scheduled(b2=lambda k: ONES), T, r"b2 must be a real scalar; got .*array\(\[1"),
    "b2 complex": (
        scheduled(b2=lambda k: 1j),
        T,
        "b2 must be a real scalar; got 1j. Pass e.g. b2=",
    ),
    "clip None": (scheduled(clip_value=lambda t: None), T, "clip_value must be a real .*got None"),
}
