"""AdaShift for JAX: the paper's optimizer, and one with half of Adam's memory, for Optax."""

from adashift_optax._adashift import ScaleByAdashiftState, scale_by_adashift
from adashift_optax._alias import adashift, adashift_factored, adashiftw
from adashift_optax._checks import STATIC_ARGS
from adashift_optax._factored import ScaleByAdashiftFactoredState, scale_by_adashift_factored
from adashift_optax.sharding import state_bytes

__version__ = "0.1.0"
__all__ = [
    "STATIC_ARGS",
    "ScaleByAdashiftFactoredState",
    "ScaleByAdashiftState",
    "adashift",
    "adashift_factored",
    "adashiftw",
    "scale_by_adashift",
    "scale_by_adashift_factored",
    "state_bytes",
]
