"""The demo, which ``python -m adashift_optax`` runs. The library never imports it."""
