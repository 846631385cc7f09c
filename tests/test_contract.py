"""Every cell of the tables in contract.py, against the NumPy reference, which is wrapped alike."""

import functools

import jax
import numpy as np
import pytest
from contract import (
    FROZEN,
    OPTIMIZERS,
    RUNS,
    SHAPES,
    VARIANTS,
    WRAPPERS,
    N,
    Wrapper,
    jitted,
    oracles,
    run,
)

PLAIN = Wrapper("")


@pytest.fixture(autouse=True)
def _in_64_bits():
    """In all threads, for callbacks run in others. Optax's own transformations mix dtypes."""
    jax.config.update("jax_enable_x64", True)
    with jax.numpy_dtype_promotion("standard"):
        yield
    jax.config.update("jax_enable_x64", False)


def cells(make):
    """make(variant) of all variants, side by side in one program: it compiles twice as fast."""
    return {f"{variant}: {name}": tx for variant in VARIANTS for name, tx in make(variant).items()}


def ours(context):
    """Every optimizer in every variant."""
    return cells(
        lambda variant: {
            name: context.make(factory, {"n": N, **kwargs, **VARIANTS[variant]})
            for name, (factory, kwargs) in OPTIMIZERS.items()
        }
    )


def wanted(context):
    return run(cells(lambda variant: oracles(VARIANTS[variant])), context, jitted)[0]


plainly_wanted = functools.cache(lambda: wanted(PLAIN))


def differing(updates, wanted):
    """The cells whose updates are not the reference's."""
    names = {}
    for u, want in zip(updates, wanted, strict=True):
        for cell in u:
            equal = jax.tree.map(lambda x, y: np.allclose(x, y, 1e-9, 1e-12), u[cell], want[cell])
            if not all(jax.tree.leaves(equal)):
                names[cell] = None
    return list(names)


@pytest.mark.parametrize("how", RUNS)
def test_run(how):
    updates, _ = run(ours(PLAIN), PLAIN, RUNS[how])
    assert differing(updates, plainly_wanted()) == []


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped(wrapper):
    context = WRAPPERS[wrapper]
    updates, states = run(ours(context), context, context.run)
    assert differing(updates, wanted(context)) == []
    if context.frozen:
        (size,) = SHAPES[FROZEN]
        assert all(size not in x.shape for x in jax.tree.leaves(states))
