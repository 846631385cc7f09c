"""The rows of the tables: the two optimizers of the library, their rivals, and a control."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
import optax.contrib

from adashift_optax import adashift, adashift_factored, scale_by_adashift
from benchmarks.evidence.candidates import Candidate

RATE = 1e-3
ADAM, LION, RECIPE = "Adam", "Lion", "Adafactor's recipe"
FACTORED, MAX, B1_0 = "adashift_factored", "adashift, max", "adashift, max, b1=0"
CHAIN = f"{B1_0}, n=1, then optax.ema"
CONTROL = "adashift_factored without its delay"

Make = Callable[[], optax.GradientTransformation]

OURS: dict[str, Make] = {
    FACTORED: lambda: adashift_factored(RATE),
    f"{FACTORED}, bfloat16 momentum": lambda: adashift_factored(RATE, mu_dtype=jnp.bfloat16),
    f"{FACTORED}, b1=0": lambda: adashift_factored(RATE, b1=0.0),
    MAX: lambda: adashift(RATE),
    f"{MAX}, bfloat16 queue": lambda: adashift(RATE, queue_dtype=jnp.bfloat16),
    "adashift, mean": lambda: adashift(RATE, phi="mean"),
    "adashift, none": lambda: adashift(RATE, phi="none"),
    B1_0: lambda: adashift(RATE, b1=0.0),
    CHAIN: lambda: optax.chain(scale_by_adashift(b1=0.0, n=1), optax.ema(0.9), optax.scale(-RATE)),
}
RIVALS: dict[str, Make] = {
    ADAM: lambda: optax.adam(RATE),
    "NAdam": lambda: optax.nadam(RATE),
    "AMSGrad": lambda: optax.amsgrad(RATE),
    "ADOPT": lambda: optax.contrib.adopt(RATE),
    LION: lambda: optax.lion(RATE),
    RECIPE: lambda: optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=2), optax.ema(0.9), optax.scale(-RATE)
    ),
    "optax.adafactor": lambda: optax.adafactor(RATE),
}
# The rule of adashift_factored with today's rows and columns in v. It is written without regard to
# speed, so only its compiled programs are compared, and not on a CPU.
CONTROLS: dict[str, Make] = {
    CONTROL: lambda: optax.chain(Candidate().make(delayed=False), optax.scale(-RATE)),
}
EVERY = RIVALS | OURS | CONTROLS
