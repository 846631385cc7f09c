"""The study of issue 17: which optimizer learns what, at how many bytes of state a parameter."""
