"""The plan of the paper's MNIST experiments: settings, optimizers, rates and seeds.

The settings are those of the authors' TensorFlow code. plan.md says where this plan departs from
it. Whoever changes the plan raises VERSION.
"""

from functools import partial
from typing import Any, NamedTuple

import optax

from adashift_optax import scale_by_adashift

VERSION = 1
POINTS = (-1, 0, 1)  # half decades from the paper's rate; the other two run with one seed only


class Setting(NamedTuple):
    """A model, and the arguments that its optimizers share.

    Attributes:
      hidden: the widths of the hidden layers, which have no activation.
      spread: the standard deviations of the initial matrices and of the initial biases. None: that
        of a matrix is one over the root of its number of inputs, and biases are 0.
      sgd: the rate of SGD.
    """

    model: str
    hidden: tuple[int, ...]
    batch: int
    epochs: int
    b1: float
    n: int
    eps: float
    spread: tuple[float, float] | None
    sgd: float
    seeds: tuple[int, ...]


class Cell(NamedTuple):
    """One run."""

    setting: str
    optimizer: str
    rate: float
    seed: int


LOGISTIC = partial(Setting, "logistic", (), 128, 20, spread=(0.01, 0.0), sgd=0.1, seeds=(0, 1, 2))
MLP = partial(Setting, "mlp", (256, 256), 64, b1=0.0, n=10, eps=1e-8, seeds=(0, 1))
SETTINGS = {
    "logistic b1=0": LOGISTIC(b1=0.0, n=1, eps=1e-10),
    "logistic b1=0.9": LOGISTIC(b1=0.9, n=10, eps=1e-10),
    "mlp b1=0": MLP(epochs=20, spread=(1.0, 1.0), sgd=1e-3),
    "mlp b1=0, small start": MLP(epochs=10, spread=None, sgd=0.1),
}


def optimizers(setting: Setting) -> dict[str, tuple[optax.GradientTransformation, float]]:
    """The directions of the paper's optimizers, and the paper's rates. SGD has no momentum."""
    b1, n, eps = setting.b1, setting.n, setting.eps

    def ours(phi: Any) -> optax.GradientTransformation:
        return scale_by_adashift(b1, 0.999, eps, n=n, phi=phi)

    return {
        "SGD": (optax.identity(), setting.sgd),
        named("Adam", b1): (optax.scale_by_adam(b1, 0.999, eps), 1e-3),
        named("AMSGrad", b1): (optax.scale_by_amsgrad(b1, 0.999, eps), 1e-3),
        f"AdaShift (none, n={n})": (ours("none"), 1e-3),
        f"AdaShift (max, n={n})": (ours("max"), 1e-2),
    }


def named(optimizer: str, b1: float) -> str:
    """The label of an optimizer whose usual b1 is 0.9."""
    return optimizer if b1 == 0.9 else f"{optimizer} (b1={b1:g})"


def cells(settings: dict[str, Setting]) -> list[Cell]:
    """All runs of the plan. Those of the first seed at the paper's rates come first."""
    found = []
    for name, setting in settings.items():
        for optimizer, (_, paper) in optimizers(setting).items():
            for seed in setting.seeds:
                for point in POINTS if seed == setting.seeds[0] else (0,):
                    rate = float(f"{paper * 10 ** (point / 2):.6g}")
                    found.append((seed, abs(point), Cell(name, optimizer, rate, seed)))
    return [cell for *_, cell in sorted(found, key=lambda item: item[:2])]
