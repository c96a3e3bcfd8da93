"""What `config.json` and `report.json` of a run hold."""

import json
from collections.abc import Mapping
from pathlib import Path

from iwae_tf.files import read_json, unreadable
from iwae_tf.runs.config import Config

# Kinds, see `iwae_tf.files.fits`. Reports of older versions lack what has a question
# mark.
_NUMBER = (int, float)
_BOUNDED = {"tvae_affine": 6, "tvae_tps": 18}
_INIT = {
    "run": str,
    "objective": str,
    "n_samples": int,
    "step": int,
    "iterations?": int,  # of the optimizer, if it goes on too
    "weights_sha256": str,
}
RECORD = {
    "config": dict,
    "data": {
        "name": str,
        "image_shape": [int],
        "n_train?": int,
        "classes?": list,
        "n_context?": int,
        "n_levels?": int,
    },
    "init?": _INIT,
    "devices?": [{"step": int, "n": int}],  # how many have trained from a step on
}
REPORT = RECORD | {
    "test": {
        "n_images": int,
        "n_samples": int,
        "chunk?": int,
        "proposal?": str,
        "log_likelihood": _NUMBER,
        "standard_error": _NUMBER,
        "scoring_error?": (*_NUMBER, type(None)),
        "elbo": _NUMBER,
        "log_px_given_z": _NUMBER,
        "kl": _NUMBER,
        "bounds": {"*": _NUMBER},
        "ess_median": _NUMBER,
        "ess_min": _NUMBER,
        "is_density?": bool,
        "bits_per_dimension?": _NUMBER,
        "binarizations?": {
            "n": int,
            "log_likelihood": _NUMBER,
            "standard_deviation": _NUMBER,
        },
        "jackknife?": {"*": {"log_likelihood": _NUMBER, "standard_error": _NUMBER}},
        "pareto_k?": {
            "median": (*_NUMBER, type(None)),
            "threshold": _NUMBER,
            "share_above": _NUMBER,
        },
    },
    "units?": [{"n_active": int, "activity": [_NUMBER]}],
    "epochs": int,
    "steps": int,
    "best_epoch?": int,
    "workers?": int,
    "train_seconds": (*_NUMBER, type(None)),
    "score_seconds": _NUMBER,
    "commit": (str, type(None)),
    "scores_sha256?": str,
    "ais?": {
        "n_images": int,
        "log_likelihood": _NUMBER,
        "standard_error": _NUMBER,
        "difference": _NUMBER,
        "difference_error": _NUMBER,
        "ess_median": _NUMBER,
        "acceptance": _NUMBER,
        "certificate": {
            "lower": _NUMBER,
            "upper": _NUMBER,
            "gap": _NUMBER,
            "gap_error": _NUMBER,
        },
        "options": {"ais_chains": int, "ais_temperatures": int},
    },
}


def read(path: Path, kind: Mapping, what: str, remedy: str) -> dict:
    """Reads a record whose `config` must be options that this version knows.

    Args:
      path: the file.
      kind: `RECORD` or `REPORT`.
      what: see `iwae_tf.files.read_json`.
      remedy: likewise.

    Raises:
      UsageError: if the file is missing or damaged, or holds something else.
    """
    record = read_json(path, kind, what, remedy)
    try:
        config_of(record)
    except (AttributeError, TypeError, ValueError):
        raise unreadable(path, what, remedy) from None
    return record


def of_run(record: Mapping) -> dict:
    """The options in a record that its numbers depend on, as JSON has them."""
    return json.loads(json.dumps(config_of(record).of_run()))


def before_growth(options: Mapping, earlier: Mapping) -> Mapping:
    """Options with the epochs of an earlier record, if these may grow and have grown.

    Args:
      options: what `of_run` returns.
      earlier: the record or the report of the same run at an earlier time.
    """
    was = config_of(earlier)
    if was.may_grow and was.epochs < options["epochs"]:
        return {**options, "epochs": was.epochs}
    return options


def config_of(record: Mapping) -> Config:
    """The options in a record; options newer than the record have their defaults.

    Spatial transformers that are older than `n_bounded` have a tanh.
    """
    options = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record["config"].items()
    }
    options = {"n_bounded": _BOUNDED.get(options.get("model"), 0)} | options
    return Config(**options)
