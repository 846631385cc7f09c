# %% [markdown]
# # The paper's figures on MNIST
#
# The paper trains two models on MNIST, at one learning rate for each optimizer. **Does AdaShift
# train as well as Adam or better there, and does the answer depend on those learning rates?** This
# notebook is for you if you have read the paper and want to see its experiments run again. At its
# end you know what came out here, beside what the paper and its reproducibility report say.
#
# The models are logistic regression and a network of three linear layers without activations
# (784, 256, 256 and 10 units), called MLP below. Model, batch size, initial weights and learning
# rates are those of the authors' TensorFlow code. Nothing is tuned, nothing is clipped, and the
# learning rate is constant.
#
# Training is not repeated here. `python -m benchmarks.evidence.paper` trains, in about 20 minutes
# of one core, and writes [`paper.csv`](../benchmarks/results/evidence/paper.csv), which this
# notebook reads. The section "The paper's figures" of
# [the plan of the study](../benchmarks/evidence/README.md) lists every setting, and each point in
# which we depart from the authors' code. We add one setting, called *small start*: the MLP from
# usual, smaller initial weights. In the authors' code all initial weights and biases of the MLP are
# normal numbers of deviation 1, so that the loss starts above 1,000.

# %%
import csv
import json
from pathlib import Path

import common
import matplotlib.pyplot as plt
import numpy as np
from common import color, table
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

FILE = Path(common.__file__).parents[1] / "benchmarks" / "results" / "evidence" / "paper.csv"
SETTINGS = {
    "logistic b1=0": "Logistic regression, b1=0",
    "logistic b1=0.9": "Logistic regression, b1=0.9",
    "mlp b1=0": "MLP, b1=0",
    "mlp b1=0, small start": "MLP, b1=0, small start",
}
with FILE.open(encoding="utf-8") as file:
    lines = list(csv.DictReader(file))

RUNS = {}  # by setting, optimizer and rate: lower than the paper's, the paper's, higher
for task in SETTINGS:
    for optimizer in dict.fromkeys(line["optimizer"] for line in lines if line["task"] == task):
        mine = [line for line in lines if (line["task"], line["optimizer"]) == (task, optimizer)]
        rates = sorted({float(line["rate"]) for line in mine})
        RUNS.setdefault(task, {})[optimizer] = {
            rate: [line for line in mine if float(line["rate"]) == rate] for rate in rates
        }


def curves(runs, of):
    """The training loss or the test accuracy after each epoch, for each seed that converged."""
    kept = [json.loads(run["curve"])[of] for run in runs if run["diverged"] == "False"]
    return np.array(kept, float)


def end(runs, of, epochs=1):
    """The mean over seeds and over the last epochs: NaN if a seed diverged."""
    if any(run["diverged"] == "True" for run in runs):
        return np.nan
    return curves(runs, of)[:, -epochs:].mean()


# %% [markdown]
# ## What are the curves at the paper's learning rates?
#
# The learning rate is 0.001 for Adam, AMSGrad and AdaShift with `phi="none"`, and 0.01 for AdaShift
# with `phi="max"`. SGD takes 0.1 in logistic regression and 0.001 in the MLP. `phi="max"` divides
# all elements of a leaf by the root of one number, and `phi="none"` divides each element by a
# number of its own. n is the *delay*: v, the running mean of squared gradients, uses gradients that
# are at least n steps old.
#
# The training loss of an epoch is the mean over its batches. Each seed has a line of its own.


# %%
def logarithmic(axis):
    """A logarithmic scale with 1, 2 and 5 written out."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    for set_formatter in (axis.set_major_formatter, axis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


# %%
# Figure: TODO
# Alt: Four rows of two panels, one row for each setting: training loss and test accuracy after
# each epoch, with one line for each optimizer and seed.
fig, axes = plt.subplots(len(RUNS), 2, figsize=(8.4, 2.5 * len(RUNS)), squeeze=False)
for (task, of_task), (left, right) in zip(RUNS.items(), axes, strict=True):
    for optimizer, by_rate in of_task.items():
        runs = by_rate[sorted(by_rate)[1]]
        for ax, of, scale in ((left, "loss", 1), (right, "accuracy", 100)):
            for seed, values in enumerate(scale * curves(runs, of)):
                label = None if seed else optimizer
                epochs = np.arange(1, len(values) + 1)
                ax.plot(epochs, values, color=color(optimizer), label=label, linewidth=1.3)
        if np.isnan(end(runs, "loss")):
            right.plot([], [], color=color(optimizer), label=f"{optimizer}: diverged")
    left.set_title(SETTINGS[task], loc="left")
    left.set(xlabel="epoch", ylabel="training loss")
    if task == "mlp b1=0":
        logarithmic(left.yaxis)
    elif task != "mlp b1=0, small start":
        left.set_ylim(0.23, 0.42)
    right.set(xlabel="epoch", ylabel="test accuracy (%)")
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
plt.show()

# %% [markdown]
# The table has the training loss of the last epoch and the test accuracy, as means over the seeds.
# The test accuracy jumps from epoch to epoch, so it is also averaged over the last five epochs.

# %%
for task, of_task in RUNS.items():
    rows = []
    for optimizer, by_rate in of_task.items():
        runs = by_rate[sorted(by_rate)[1]]
        numbers = ["diverged", ""]
        if np.isfinite(end(runs, "loss")):
            numbers = [f"{end(runs, 'loss'):.4g}", f"{100 * end(runs, 'accuracy', 5):.2f} %"]
        rows.append([optimizer, f"{sorted(by_rate)[1]:g}", len(runs), *numbers])
    table([SETTINGS[task], "rate", "seeds", "training loss", "test accuracy"], rows)
    print()

# %% [markdown]
# ## Do the paper's learning rates favour an optimizer?
#
# With one learning rate for each optimizer, a comparison may show the rates instead of the
# optimizers. So the first seed also trained at two other rates: the paper's divided by the root of
# 10, and multiplied by it. Where one of the two reaches a lower loss, the paper's rate is not the
# best for that optimizer.

# %%
# Figure: TODO
# Alt: Four panels, one for each setting. Each has a row for each optimizer, with the training loss
# of the last epoch at three learning rates: a triangle to the left for the lower, a disc for the
# paper's and a triangle to the right for the higher rate.
MARKERS = {"lower rate": "<", "the paper's rate": "o", "higher rate": ">"}
fig, axes = plt.subplots(2, 2, figsize=(8.4, 5.2))
for ax, (task, of_task) in zip(axes.flat, RUNS.items(), strict=True):
    for y, (optimizer, by_rate) in enumerate(of_task.items()):
        ends = [end(by_rate[rate][:1], "loss") for rate in sorted(by_rate)]
        ax.plot(ends, [y] * 3, color=color(optimizer), linewidth=0.8, alpha=0.6)
        for loss, marker in zip(ends, MARKERS.values(), strict=True):
            ax.plot(loss, y, marker, color=color(optimizer), markersize=8, alpha=0.85)
        words = ("lower", "the paper's", "higher")
        lost = [word for word, loss in zip(words, ends, strict=True) if np.isnan(loss)]
        if lost:
            text = "all three" if len(lost) == 3 else ", ".join(lost)
            ax.text(0.99, y, f"diverged: {text}", transform=ax.get_yaxis_transform(), ha="right")
    ax.set_title(SETTINGS[task], loc="left")
    ax.set(xlabel="training loss of the last epoch")
    ax.set(yticks=range(len(of_task)), yticklabels=of_task, ylim=(len(of_task) - 0.4, -0.6))
    if task == "mlp b1=0":
        logarithmic(ax.xaxis)
handles = [Line2D([], [], color="gray", marker=m, linestyle="") for m in MARKERS.values()]
fig.legend(handles, MARKERS, loc="outside lower center", ncols=3)
plt.show()
