"""What XLA's compilers make of a step for chips that need not be at hand."""
