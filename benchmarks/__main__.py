"""Measures speed and memory, side by side in one run.

    python -m benchmarks [steps scoring ...] [--out FILE] [--against FILE]

Only ratios within one run, and between runs on the same idle machine, mean something.
"""

import argparse
import importlib
import json
import os
import platform
import sys

PARTS = (
    "steps",
    "objectives",
    "scoring",
    "deep",
    "warps",
    "devices",
    "growth",
    "start",
    "proposals",
)


def main() -> None:
    """Measures what was asked for, all by default."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures speed and memory, side by side in one run.",
    )
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="part",
        help=f"what to measure, of {', '.join(PARTS)}; by default all",
    )
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument(
        "--against", help="JSON file of an earlier run, to compare with as ratios"
    )
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"part: must be one of {', '.join(PARTS)}, got {unknown[0]}")
    former = None
    if options.against:
        try:
            with open(options.against) as file:
                former = json.load(file)["values"]
        except (OSError, ValueError, KeyError) as error:
            parser.error(f"--against: must be a file of an earlier run, got {error}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    values = {}
    for part in options.parts or PARTS:
        module = importlib.import_module(f"benchmarks.{part}")
        print(f"\n## {part}\n\n{module.__doc__.strip()}\n", flush=True)
        found = module.measure()
        values |= {f"{part}: {name}": value for name, value in found.items()}
        if options.out:  # what was measured is kept if a later part is stopped
            write(options.out, values)
    if former is not None:
        compare(former, values)


def write(path: str, values: dict[str, float]) -> None:
    """Writes the values with what they depend on."""
    from iwae_tf.runs.run import commit, versions

    content = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": versions(),
        "commit": commit(),
        "values": values,
    }
    with open(path, "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")


def compare(former: dict[str, float], values: dict[str, float]) -> None:
    """Prints the ratio of each value to that of an earlier run."""
    from benchmarks.turns import head, row

    print("\n## Ratio to the earlier run\n")
    head("value", "now", "then", "ratio")
    for name, value in values.items():
        if name in former:
            row(name, value, former[name], value / former[name])


if __name__ == "__main__":
    sys.exit(main())
