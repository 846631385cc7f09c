"""The job of ``python -m adashift_optax``. The library never imports it."""
