"""What the page of tables says, and which rows stand first on it."""

from typing import NamedTuple

HEADING = """# What a step moves on an H100 and on a TPU

This page is for you if you train on a GPU or a TPU and want to know what a step of AdaShift costs
there, beside Adam's. Three short tables answer this for the settings that most people ask for. The
full tables below them have every variant.

Nothing on this page has run on such a chip, so the page has no times. JAX's compilers for an H100
and for TPUs run on any Linux machine, and we read the numbers off the programs that they make: how
many bytes a step reads and writes, how much memory the step needs, and what the chips send each
other. An optimizer does little arithmetic for each byte, so we expect that its time follows the
bytes. We have not measured this on a chip. The [benchmarks](../../README.md) tell how to repeat
the tables.
"""

NOTES = """## What do the names and columns mean?

A name gives phi, then the window (if it is not the sliding window), then the delay n. For the
window "ema" n is 1, if the name gives no other n, and `clip_value` is 1. "outputs" is `phi="mean"`
with `block_axes="outputs"`. "factored RMS + ema" is `optax.scale_by_factored_rms()` followed by
`optax.ema(0.9)`. "no delay" is the rule of the window "ema", but today's gradient is in v; the
library does not offer this rule, and its rows show what the delay is worth.

- **moved**: the bytes that all kernels of the step read and write, for each parameter on the chip.
  Parameters and gradients are float32: to read all gradients once is 4 bytes for each parameter.
- **moved / Adam's**: the same number over that in Adam's row. Below 1 the step moves less.
- **state**: the bytes of the optimizer's state.
- **kernels**: how many kernels move more than 64 KiB.
- **temporaries**: the memory that the step needs beside parameters, state and gradients. On a TPU
  this is a multiple of 32,256 bytes, however large the leaves are.
- **copies**: how many whole arrays of parameters, state or gradients are copied. If a queue were
  not updated in place, it would be counted here.
- **peak memory**: the arguments and results of the step, and its temporaries.
- **all-reduces**: how often the chips add up numbers of all chips, or take the largest of them.
- **numbers in them**: how many numbers one chip contributes to all of these all-reduces.
- **waits**: "yes" if an update needs the result of an all-reduce. Then no chip can update a
  parameter before all chips have read their gradients.
- **joined**: how many matrices are updated by the kernel of the matrix product that makes their
  gradient. The gradient of such a matrix is never stored.
"""

# Of the update on its own, and of the whole step: the rows that stand first.
FIRST = (
    "Adam",
    "Lion",
    "factored RMS + ema",
    "factored, ema",
    "none, ema",
    "max, hopping",
    "max, sliding",
)


class Short(NamedTuple):
    """A table of a few rows.

    Attributes:
      title, note: what stands above it.
      file: the CSV file without its ending.
      model: which of its models.
      optimizers: which rows, in this order.
      whole_step: whether the rows are of whole training steps.
    """

    title: str
    note: str
    file: str
    model: str
    optimizers: tuple[str, ...]
    whole_step: bool


SHORT = [
    Short(
        "What does an update move on an H100?",
        """The step of the optimizer alone: `update` and `apply_updates` in one jitted call, for
float32 parameters in 8 matrices of 2048 x 2048 and 8 vectors. XLA sums the columns of a matrix in
another way when the matrix is smaller: for 1024 x 1024 AdaShift (factored, ema) moves 4 bytes less,
as the full table shows.
""",
        "update-h100",
        "8 matrices 2048 x 2048 and 8 vectors",
        (*FIRST, "none, hopping"),
        False,
    ),
    Short(
        "What does an update move on a TPU v5e?",
        """The same on one chip, for 8 matrices of 1024 x 1024 and 8 vectors.
""",
        "update-v5e",
        "8 matrices 1024 x 1024 and 8 vectors",
        (*FIRST, "none, hopping"),
        False,
    ),
    Short(
        "What does a whole training step move on a TPU v5e?",
        """Forward pass, backward pass and update of 2 residual layers of 2048 x 2048, for 4096
rows, on one chip. With "ema" and "hopping" XLA puts the update into the matrix product that makes
the gradient, as with Adam and Lion, and never stores the gradient. If today's gradient is part of
a v that many elements share, as in "factored RMS + ema" and in the row "no delay", the step has to
store the gradient first. The sliding window keeps the gradient in its queue, so the step has to
store the gradient there.
""",
        "step-v5e",
        "2 residual layers",
        (*FIRST, "factored, ema, no delay"),
        True,
    ),
]

# Title, note and CSV files of the full tables.
ALL = [
    (
        "All tables of the update alone",
        """`update` and `apply_updates` in one jitted call. Parameters and state are donated.
""",
        ("update-cpu", "update-h100", "update-v5e", "update-v6e"),
    ),
    (
        "All tables of the update on a mesh of TPU chips",
        """The parameters have the shapes of Llama 3.2 1B: 1.24 billion parameters in 146 leaves.
Every matrix is split over both axes of the mesh.
""",
        ("mesh-16", "mesh-256"),
    ),
    (
        "All tables of the whole training step",
        """Forward pass, backward pass and update in one jitted call. Matrix products are in
bfloat16, parameters in float32. Moved bytes are those of the whole step. The residual layers are
2048 wide, for 4096 rows. The transformer has 2 blocks of width 1024, a vocabulary of 32,768, and 8
sequences of 512 tokens. Its 2 embedding tables join no matrix product, whichever the optimizer.
""",
        ("step-v5e", "step-16", "step-h100"),
    ),
]
