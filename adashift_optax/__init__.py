"""AdaShift for JAX: decorrelated adaptive steps as an Optax gradient transformation."""

from adashift_optax._adashift import ScaleByAdashiftState, scale_by_adashift
from adashift_optax._alias import adashift, adashiftw
from adashift_optax._checks import STATIC_ARGS
from adashift_optax._memory import state_bytes

__version__ = "0.1.0"
__all__ = [
    "STATIC_ARGS",
    "ScaleByAdashiftState",
    "adashift",
    "adashiftw",
    "scale_by_adashift",
    "state_bytes",
]
