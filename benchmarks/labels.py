"""How tables and plots name what was measured."""

PHIS = ("max", "mean", "outputs", "factored", "none")


def label(name: str, n: int | None = 10) -> str:
    """The name that readers see: "max, sliding" is "AdaShift (max, n=10)".

    Names that do not begin with a phi are of other optimizers, and stay as they are.

    Args:
      name: phi and options, separated by ", ".
      n: the delay, if the name has none and its window is not "ema", which has n = 1. None: the
        label has no delay.
    """
    phi, *options = name.split(", ")
    if phi not in PHIS:
        return name
    if "ema" in options:
        options = [option for option in options if option != "n=1"]
    elif n is not None and not any(map(_is_delay, options)):
        options.append(f"n={n}")
    kept = sorted((option for option in options if option != "sliding"), key=_place)
    return f"AdaShift ({', '.join([phi, *kept])})"


def _is_delay(option: str) -> bool:
    return option.startswith("n=")


def _place(option: str) -> int:
    """The window and b1 come first, then the delay."""
    if option in ("hopping", "ema", "b1=0"):
        return 0
    return 1 if _is_delay(option) else 2
