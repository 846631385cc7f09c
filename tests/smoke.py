"""What a user has after `pip install adashift-optax`: no more than JAX, NumPy and Optax is needed.

python -I smoke.py, outside the repository: release.py does it for the wheel and for the sdist.
"""

import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import adashift_optax
from adashift_optax import adashift_factored, scale_by_adashift

PUBLIC = {
    "STATIC_ARGS",
    "ScaleByAdashiftFactoredState",
    "ScaleByAdashiftState",
    "adashift",
    "adashift_factored",
    "adashiftw",
    "scale_by_adashift",
    "scale_by_adashift_factored",
    "state_bytes",
}
EXTRAS = ("flax", "equinox", "orbax", "matplotlib", "sklearn", "pytest")


def check_installation():
    folder = Path(adashift_optax.__file__).parent
    assert folder.is_relative_to(sys.prefix), folder
    assert (folder / "py.typed").is_file()
    assert not [name for name in EXTRAS if importlib.util.find_spec(name)]
    assert set(adashift_optax.__all__) == PUBLIC
    assert all(getattr(adashift_optax, name).__doc__ for name in PUBLIC - {"STATIC_ARGS"})
    for module in ("analysis", "problems", "sharding"):
        assert importlib.import_module(f"adashift_optax.{module}").__doc__
    assert adashift_optax.__version__ == importlib.metadata.version("adashift-optax")


def check_the_demo_says_what_it_lacks():
    command = [sys.executable, "-I", "-m", "adashift_optax"]
    demo = subprocess.run(command, capture_output=True, text=True)
    assert demo.returncode == 2, demo
    assert "adashift-optax[demo]" in demo.stderr, demo.stderr


def check_known_numbers():
    """Gradients 1, 2, 3, 4 with n = 2 and b1 = b2 = 1/2, by hand.

    m_3 = (3 + 2/2) / (1 + 1/2) = 8/3, v_3 = 1^2; m_4 = (4 + 3/2) / (3/2) = 11/3,
    v_4 = (1^2 / 4 + 2^2 / 2) / (1 - 1/4) = 3.
    """
    tx = scale_by_adashift(n=2, b1=0.5, b2=0.5, eps=0)
    state, updates = tx.init(jnp.zeros([])), []
    for g in (1.0, 2.0, 3.0, 4.0):
        update, state = jax.jit(tx.update)(jnp.asarray(g), state)
        updates.append(float(update))
    np.testing.assert_allclose(updates, [0, 0, 8 / 3, 11 / 3 / 3**0.5], rtol=1e-6)
    tx, g = adashift_factored(0.1, b1=0), jnp.array([[3.0, -4.0]])  # its first step is the sign
    np.testing.assert_allclose(tx.update(g, tx.init(g))[0], [[-0.1, 0.1]], rtol=1e-6)


if __name__ == "__main__":
    check_installation()
    check_the_demo_says_what_it_lacks()
    check_known_numbers()
    print(f"smoke: adashift_optax {adashift_optax.__version__}, jax {jax.__version__}, 3 checks")
