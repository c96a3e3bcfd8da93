"""Functions that take turns, so that a drift in the machine's speed affects all."""

import statistics
import time
from collections.abc import Callable, Mapping


def medians(
    functions: Mapping[str, Callable[[], object]], rounds: int = 5
) -> dict[str, float]:
    """Calls functions in turn.

    Args:
      functions: functions without arguments, by name. Each has been called before.
      rounds: number of calls of each.

    Returns:
      seconds: the median of each function's calls.
    """
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def row(*cells: object) -> None:
    """Prints a row of a Markdown table; numbers get three digits."""
    texts = (f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells)
    print(f"| {' | '.join(texts)} |", flush=True)


def head(*cells: str) -> None:
    """Prints the head of a Markdown table with right-aligned columns."""
    row(*cells)
    print(f"|{'--:|' * len(cells)}", flush=True)
