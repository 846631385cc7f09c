"""Measures a case: time against the base, bytes, fraction of the bandwidth."""

import math

from benchmarks.cases import Case
from benchmarks.report import Row, verdict
from benchmarks.timing import COPY_ELEMENTS, Settings, copy, interleave, ratio


def measure(case: Case, settings: Settings) -> Row:
    """Build and time a case."""
    runs = case.build()
    # Past the first n steps, whose updates are 0: XLA skips the work behind a scale of 0.
    settings = settings._replace(warm_up=max(settings.warm_up, case.n + 2))
    reach, stretch, state_limit, moved = (
        math.nan if value is None else value
        for value in (case.reach, case.stretch, case.state_limit, case.moved)
    )
    if case.compiles:
        settings = Settings(max(1, settings.rounds // 4), 0, (1,), warm_up=1)
    seconds = interleave(runs, settings)
    result = ratio(seconds, 0, 1) if case.speed else ratio(seconds, 1, 0)
    if len(runs) == 4:
        reach += ratio(seconds, 3, 2).median
    state, temporary = (
        getattr(runs[1], name, math.nan) / case.parameters
        for name in ("state_bytes", "temporary_bytes")
    )
    bandwidth = math.nan
    if case.moved:  # bytes per second of the case, over those of the copy
        # In rounds of its own: the copy would empty the caches between the case and its base.
        beside_copy = interleave([runs[1], copy()], settings._replace(seconds=0))
        moved_bytes = case.moved * case.parameters * case.steps
        bandwidth = ratio(beside_copy, 1, 0).median * moved_bytes / (8 * COPY_ELEMENTS)
    return Row(
        case.group,
        case.name,
        case.against,
        case.variant,
        case.n,
        case.parameters,
        len(seconds),
        *result,
        reach,
        stretch,
        state,
        state_limit,
        temporary,
        moved,
        bandwidth,
        verdict(result.median, reach, stretch, state, state_limit),
    )
