"""AdaShift for JAX: decorrelated adaptive steps as an Optax gradient transformation."""

from adashift_optax._adashift import (
    ScaleByAdashiftState,
    adashift,
    adashiftw,
    scale_by_adashift,
)
from adashift_optax._checks import STATIC_ARGS

__version__ = "0.1.0"
__all__ = [
    "STATIC_ARGS",
    "ScaleByAdashiftState",
    "adashift",
    "adashiftw",
    "scale_by_adashift",
]
