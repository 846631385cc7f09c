# %% [markdown]
# # What do you get for 8, 4, 2 and 0 bytes of state?
#
# An optimizer pays for its quality in memory: Adam keeps 8 bytes for each float32 parameter, Lion
# 4, SGD none. Which loss does each reach, and what does AdaShift reach in the same memory? And what
# does the delay itself bring, everything else being equal?
#
# The runs are made by `benchmarks/evidence`, whose README is the plan that was committed before
# them: tasks on real text and images, grids of learning rates of the same size for all, and rules.
# Optimizers, their settings and their learning rates were chosen on three tasks (A). This notebook
# reads the results, which are files of this repository, and draws them; it trains nothing.

# %%
import sys

import matplotlib.pyplot as plt
import numpy as np
from common import table

sys.path.insert(0, "..")
from benchmarks.evidence import plan, results
from benchmarks.evidence.optimizers import B2S, ROWS
from benchmarks.evidence.picture import NAMES, draw, points
from benchmarks.evidence.statistics import best_of, log_ratios, percent, tuned


def study(name, tasks):
    """The tuned rows of each task that has runs."""
    found = {task: tuned(results.read(task), plan.SEEDS[name]) for task in tasks}
    return {task: rows for task, rows in found.items() if rows}


A, B = study("A", plan.TASKS_A), study("B", plan.TASKS_B)
for name, tasks, all_tasks in (("A", A, plan.TASKS_A), ("B", B, plan.TASKS_B)):
    runs = sum(row.runs for rows in tasks.values() for row in rows.values())
    lost = sum(row.diverged for rows in tasks.values() for row in rows.values())
    print(f"tasks {name}: {len(tasks)} of {len(all_tasks)} have results; {runs} runs, {lost} diverged")
