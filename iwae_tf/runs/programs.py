"""Programs that XLA has compiled, kept for later starts."""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import tempfile
import time
from pathlib import Path

_DAYS = 30  # for which a program is kept


def keep() -> None:
    """Has XLA keep the programs of a CPU, and find those of earlier starts.

    They are in `$XDG_CACHE_HOME/iwae_tf`, by default in `~/.cache`, and are removed
    after a month. It must be called before TensorFlow is imported. TF_XLA_FLAGS of the
    user are left as they are, and where nothing can be written, nothing is kept.
    """
    if "TF_XLA_FLAGS" in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):  # no space, or no home
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        directory = Path(cache) / "iwae_tf" / f"programs-{_identity()}"
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
        for path in directory.parent.glob("programs-*/*"):
            if time.time() - path.stat().st_mtime > 86_400 * _DAYS:
                path.unlink(missing_ok=True)
        if " " not in str(directory):  # which would end the flag
            os.environ["TF_XLA_FLAGS"] = (
                f"--tf_xla_persistent_cache_directory={directory} "
                "--tf_xla_persistent_cache_device_types=CPU"
            )


def own_cores() -> int:
    """The number of cores that this process may use; only Linux reports a limit."""
    is_told = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if is_told else os.cpu_count()


def _identity():
    """The hash of what XLA itself does not compare: versions, flags and processor."""
    processor = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = ("model name", "flags", "Features")
        processor = sorted({line for line in lines if line.startswith(told)})
    facts = (
        importlib.metadata.version("tensorflow"),
        os.environ.get("XLA_FLAGS"),
        processor,
        own_cores(),
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
