"""What waits for what: no update waits for a reduction of today's gradient.

What needs a sum in v is made of older gradients, so an update needs today's gradient element by
element only. XLA can then make the update in the kernel that makes the gradient (on TPU) or reduce
the gradient in the kernel of the update (on GPU). Nor does an update need a reduction of the old
state.
On a mesh a reduction is an all-reduce, so no update waits for another device. Here each update is
followed back, in the program that JAX traces, to everything that it is computed from. The program
has branches for CPU and for accelerators: both are followed.
"""

import dataclasses
import functools

import jax
import jax.extend
import jax.numpy as jnp
import optax
import pytest
import settings

from adashift_optax import adashift, scale_by_adashift

SHAPES = {"last": (6, 2), "matrix": (5, 7), "scalar": (), "stack": (2, 3, 4), "vector": (3,)}
# 9 more, so that the numbers of whole leaves fill more than one vector.
SHAPES |= {f"x{i}": (8 + i, 2) for i in range(9)}

# An element of their result depends on one element of each operand, or on a scalar. Whatever else
# uses today's gradient, also what is not known here, is taken for a reduction.
ELEMENTWISE = """
abs add and bitcast_convert_type broadcast_in_dim clamp convert_element_type copy div
dynamic_update_slice eq ge gt input integer_pow is_finite join le lt max min mul ne neg not or
reduce_precision select_n sign sqrt square squeeze sub
"""
# The fields of the state that are not scalars.
ARRAYS = {".mu", ".nu", ".queue", ".nu_queue", ".rows", ".columns", ".means"}
CALLS = ("jit", "closed_call", "custom_jvp_call", "custom_vjp_call")


@dataclasses.dataclass(eq=False)
class Value:
    """A value of a program: what operation made it, and of what.

    Attributes:
      inputs: the leaves whose gradients it depends on, and the fields of the old state.
    """

    made_by: str
    shape: tuple
    operands: list = dataclasses.field(default_factory=list)
    inputs: frozenset = frozenset()

    def __post_init__(self):
        self.inputs = self.inputs.union(*(x.inputs for x in self.operands))

    @property
    def gradients(self):
        return self.inputs & SHAPES.keys()

    def behind(self):
        """It and everything that it is computed from."""
        found, left = {self: None}, [self]
        while left:
            new = [x for x in left.pop().operands if x not in found]
            found |= dict.fromkeys(new)
            left += new
        return list(found)

    def reductions(self):
        """The operations on today's gradients behind it that are not element by element."""
        return {x.made_by for x in self.behind() if x.gradients and not _elementwise(x)}

    def reductions_of_state(self):
        """Those on arrays of the old state, of which an element or a slot may be taken."""
        taken = ("dynamic_slice", "slice")
        return {
            x.made_by
            for x in self.behind()
            if x.inputs & ARRAYS and not _elementwise(x) and x.made_by not in taken
        }


def _elementwise(x):
    if x.made_by == "dynamic_slice":  # of one slot of a queue, if today's gradient was written
        return x.operands[0].made_by == "dynamic_update_slice" and x.shape[0] == 1
    if x.made_by == "reshape":  # of a scalar
        return x.shape == x.operands[0].shape
    return x.made_by in ELEMENTWISE.split()


def follow(closed, inputs, on_cpu=True):
    """The values that a jaxpr returns for these inputs, with all calls and branches followed.

    Of what is chosen by the platform it takes the branch for none in particular, too, `on_cpu`.
    """
    consts = [Value("const", jnp.shape(c)) for c in closed.consts]
    jaxpr = closed.jaxpr
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))

    def value(x):
        return Value("const", ()) if isinstance(x, jax.extend.core.Literal) else values[x]

    for eqn in jaxpr.eqns:
        name, operands = eqn.primitive.name, [value(x) for x in eqn.invars]
        inner = [p for p in eqn.params.values() if isinstance(p, jax.extend.core.ClosedJaxpr)]
        shapes = [x.aval.shape for x in eqn.outvars]
        if name in CALLS:
            made = follow(inner[0], operands, on_cpu)
        elif name == "cond":
            branches = eqn.params["branches"]
            platforms = eqn.params.get("branches_platforms")
            if platforms and not on_cpu:
                branches = [branches[platforms.index(None)]]
            results = [follow(branch, operands[1:], on_cpu) for branch in branches]
            made = [
                Value("join", shape, [operands[0], *each])
                for shape, *each in zip(shapes, *results, strict=True)
            ]
        elif name == "optimization_barrier":  # each of its results waits for all of its operands
            made = [Value("join", shape, operands) for shape in shapes]
        else:
            assert not inner, f"{name}: what is in it is not followed"
            made = [Value(name, shape, operands) for shape in shapes]
        values.update(zip(eqn.outvars, made, strict=True))
    return [value(x) for x in jaxpr.outvars]


def _field(path):
    """The field of the state, also of one in a chain."""
    names = [key for key in path if isinstance(key, jax.tree_util.GetAttrKey)]
    return jax.tree_util.keystr(tuple(names[:1]))


def traced(tx, on_cpu=True):
    """The updates, by name, and the new state, as values of one program."""
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in SHAPES.items()}
    state = jax.eval_shape(tx.init, params)
    program = jax.make_jaxpr(tx.update)(params, state, params)
    old = jax.tree_util.tree_leaves_with_path(state)
    names = [*SHAPES, *(_field(path) for path, _ in old), *["params"] * len(SHAPES)]
    inputs = [
        Value("input", x.shape, inputs=frozenset([name]))
        for name, x in zip(names, program.in_avals, strict=True)
    ]
    out = follow(program, inputs, on_cpu)
    new = jax.tree.unflatten(jax.tree.structure(state), out[len(SHAPES) :])
    return dict(zip(SHAPES, out, strict=False)), new


def per_column(path, leaf):
    return (0,) if leaf.ndim > 1 else None


# All settings but those whose block axes not every leaf here has, and one that has.
CASES = {name: functools.partial(settings.optimizer, name) for name in settings.SETTINGS}
del CASES["axes"], CASES["callable axes"]
CASES["columns"] = lambda: adashift(0.1, phi="mean", block_axes=per_column)
CASES["b1=0 n=1"] = lambda: adashift(0.1, 0, n=1)
CASES["chain"] = lambda: optax.chain(scale_by_adashift(0, n=1), optax.ema(0.9))


@pytest.mark.parametrize("name", CASES)
def test_an_update_waits_for_no_reduction(name, standard_promotion):
    """Each of its elements needs that of today's gradient, and nothing of the other leaves.

    Of the old state it needs no reduction.
    """
    updates, _ = traced(CASES[name]())
    for leaf, u in updates.items():
        assert u.shape == SHAPES[leaf]
        assert not u.reductions(), leaf
        assert not u.reductions_of_state(), leaf
        assert u.gradients == {leaf}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in CASES if name.split()[0] not in ("none", "chain")]
)
def test_statistics_do_not_wait_for_the_update(name):
    """Today's need the gradient and, where they join v at once, the old v; no momentum, no queue.

    The paper's v needs nothing of today's gradient.
    """
    _, state = traced(CASES[name](), on_cpu=False)
    if name in settings.FACTORED:
        state = state[0]
        for field, old in (("rows", ".rows"), ("columns", ".columns"), ("means", ".rows")):
            for v in jax.tree.leaves(getattr(state, field)):
                assert v.inputs - v.gradients <= {f".{field}", old, ".count"}
        assert set(SHAPES) == set().union(*(v.gradients for v in jax.tree.leaves(state.rows)))
        return
    nu, rings = (jax.tree.leaves(x) for x in (state[0].nu, state[0].nu_queue))
    assert not any(v.gradients for v in nu)
    assert not any(".nu" in ring.inputs for ring in rings)
    assert set(SHAPES) == set().union(*(ring.gradients for ring in rings))


def not_delayed():
    """RMSProp with one v per leaf, as in Adam-mini: v contains today's gradient."""

    def update(updates, v, params=None):
        v = jax.tree.map(lambda v, g: 0.9 * v + 0.1 * jnp.mean(g * g), v, updates)
        return jax.tree.map(lambda g, v: g / jnp.sqrt(v), updates, v), v

    return optax.GradientTransformation(lambda p: jax.tree.map(lambda _: jnp.zeros([]), p), update)


WAITING = {
    "one v per leaf": not_delayed,
    "factored": lambda: optax.scale_by_factored_rms(min_dim_size_to_factor=1),
    "global norm": lambda: optax.chain(optax.clip_by_global_norm(1.0), scale_by_adashift()),
}


@pytest.mark.parametrize("other", WAITING)
def test_the_test_can_fail(other):
    """Of what needs all of today's gradient first, the same search says so."""
    updates, _ = traced(WAITING[other]())
    assert "reduce_sum" in updates["matrix"].reductions()


def test_adam_waits_for_nothing(standard_promotion):
    updates, _ = traced(optax.scale_by_adam())
    assert not any(u.reductions() for u in updates.values())


@pytest.mark.parametrize("name", ["max", "none", "bfloat16", "none bfloat16"])
def test_the_queue_is_written_before_it_is_read(name):
    """Else XLA would copy all of it, because the old one is still read when it is written to."""
    updates, state = traced(settings.scale_by(name))
    n = settings.SETTINGS[name].get("n", 10)
    values = dict.fromkeys(
        x for result in jax.tree.leaves((updates, state)) for x in result.behind()
    )
    for leaf, shape in SHAPES.items():
        if len(shape) < 2:  # a ring of its statistics may have the shape of its queue
            continue
        uses = [(x.made_by, y) for x in values for y in x.operands if y.shape == (n + 1, *shape)]
        (write,) = (ring for made, ring in uses if made == "dynamic_update_slice")
        (read,) = (ring for made, ring in uses if made != "dynamic_update_slice")
        assert (write.made_by, read.made_by) == ("input", "dynamic_update_slice"), leaf
