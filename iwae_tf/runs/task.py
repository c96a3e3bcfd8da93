"""What the scripts in `tasks/` share: a directory, its runs, a figure and a table."""

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from iwae_tf import data, plots
from iwae_tf.data import datasets
from iwae_tf.errors import UsageError
from iwae_tf.files import escaped
from iwae_tf.measures import inspection
from iwae_tf.runs import devices, experiment, names
from iwae_tf.runs.config import Config
from iwae_tf.runs.run import Run

_N_DRAWS = 1000  # number of draws from q, for the posterior mean


class ShareDone(Exception):
    """All runs of the share of a task are done, and the task needs the others too."""


class _Elsewhere:
    """A run of a share, which is not looked at before all runs are done."""

    def __init__(self, directory):
        self.directory = directory

    def __getattr__(self, name):
        raise ShareDone


class Task:
    """One experiment: a few runs, a figure and a table.

    Attributes:
      name: the name of the task, such as task02.
      config: options that all of its runs share.
      directory: the directory for the runs, the figures and the table.
      is_smoke: whether to run only a small version, to show that the task works.
      given: finished runs that the user has named, to use in place of new ones.
      images: the data set.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        directory: Path,
        is_smoke: bool = False,
        given: Sequence[Run] = (),
        only: tuple[int, int] | None = None,
    ):
        """Loads the data set.

        Args:
          name: the name of the task.
          config: options that all of its runs share.
          directory: an existing directory.
          is_smoke: whether to run only a small version.
          given: finished runs to use in place of new ones.
          only: first and n, to do no more than every n-th run from the first.

        Raises:
          UsageError: if a given run is not finished or has other test images.
        """
        self.name, self.directory, self.is_smoke = name, directory, is_smoke
        devices.use(config.device, config.devices, is_alone=True)
        self.images = datasets.load(config.dataset, config.data_dir, config.offline)
        self.config = dataclasses.replace(config, dataset=self.images.name)
        self.given = list(given)
        self.only, self.n_jobs, self._jobs = only, 0, {}
        own = data.sha256(self.x_test)
        for run in self.given:
            if run.report["data"]["binarized_test_sha256"] != own:
                raise UsageError(
                    f"run_dir: must be of the test images of {self.images.name}, got "
                    f"{str(run)!r} on {run.report['data']['name']}"
                )

    @functools.cached_property
    def x_test(self) -> np.ndarray:
        """The binary test images, [m, height, width, channels]."""
        return data.sets_of(self.images, **self.config.of_sets()).x_test

    def run(
        self,
        watch: experiment.Watch | None = None,
        images: data.Images | None = None,
        **options,
    ) -> Run:
        """Trains and scores one run, in a directory that another start finds again.

        A run that starts from the weights of another one belongs to the same share.

        Args:
          watch: see `iwae_tf.run`.
          images: a data set in place of that of the task.
          **options: fields of `Config` that replace those of the task.

        Returns:
          run: the finished run. If only a share of the task is done, it must not be
            looked at before all runs of the task have been asked for.

        Raises:
          ShareDone: when a run of a share is looked at.
        """
        images = images or self.images
        config = dataclasses.replace(self.config, dataset=images.name, **options)
        run_dir = self.directory / f"{names.run_name(config)}-e{config.epochs}"
        config = dataclasses.replace(config, run_dir=str(run_dir))
        job = self._jobs.get(config.init_from)
        self._jobs[str(run_dir)] = self._next() if job is None else job
        if self._is_of_share(self._jobs[str(run_dir)]):
            experiment.run(config, images, watch, is_one_of_many=True)
        return Run(run_dir) if self.only is None else _Elsewhere(run_dir)

    def is_own(self) -> bool:
        """Whether the next job of the task, which is no run, is one to do now."""
        return self._is_of_share(self._next())

    def _next(self):
        """The number of the next job."""
        self.n_jobs += 1
        return self.n_jobs - 1

    def _is_of_share(self, job):
        if self.only is None:
            return True
        first, n = self.only
        return job % n == first

    def check_whole(self) -> None:
        """Checks that all jobs of the task are done.

        Raises:
          ShareDone: if only a share of the task is done.
        """
        if self.only is not None:
            raise ShareDone

    def only_given(self) -> Run | None:
        """The one run that the user has named, if any.

        Raises:
          UsageError: if the user has named more than one.
        """
        if len(self.given) > 1:
            raise UsageError(
                f"run_dir: must be one run for this task, got {len(self.given)}"
            )
        return self.given[0] if self.given else None

    @staticmethod
    def require(run: Run, is_fit: bool, rule: str) -> None:
        """Checks that the task can use a given run.

        Raises:
          UsageError: if it cannot; the message states the rule.
        """
        if not is_fit:
            raise UsageError(f"run_dir: must be {rule}, got {str(run)!r}")

    @staticmethod
    def labels(runs: Sequence[Run]) -> list[str]:
        """Short names of runs: the first trait of each, and more until they differ."""
        names, *columns = zip(*(run.traits for run in runs), strict=True)
        for column in columns:
            longer = list(zip(names, column, strict=True))
            variants = collections.Counter(name for name, _ in set(longer))
            names = [
                f"{name}, {trait}" if variants[name] > 1 else name
                for name, trait in longer
            ]
        return list(names)

    @property
    def title(self) -> str:
        """A title that says what all runs of the task share."""
        of_data = names.dataset(self.images.name)
        if self.given:
            *traits, _ = zip(*(run.traits for run in self.given), strict=True)
            shared = [column[0] for column in traits if len({*column}) == 1]
            return names.line(of_data, *shared)
        start = self.config.init_from
        if start:
            start = names.trained_as(Run(Path(start)).record["config"])
            start = f"from the weights of one {start}"
        return names.line(
            of_data,
            names.epochs(self.config.epochs),
            names.schedule(self.config),
            f"seed {self.config.seed}",
            start or "",
        )

    def pictures(self, runs: Mapping[str, Run], n: int = 10) -> list[plots.Block]:
        """Reconstructions of test images and samples by runs, without labels.

        Args:
          runs: finished runs, by the names of their rows.
          n: number of images in a row.
        """
        x = self.x_test[data.spread(len(self.x_test), n)]
        reconstructions, samples = {"x": x}, {}
        for name, run in runs.items():
            reconstructions[name] = run.model.reconstruct(x, run.figure_seed(1)).numpy()
            samples[name] = run.model.sample(n, run.figure_seed(2))[1].numpy()
        return [
            plots.Block(
                "test images x, and E[x|z] for one z ~ q(z|x)", reconstructions
            ),
            plots.Block("means of samples, z ~ p(z)", samples),
        ]

    def traversal(self, run: Run, title: str, units: Mapping[str, int]) -> plots.Block:
        """Mean images as one unit at a time moves from -2 to 2.

        The others stay at the posterior mean of the first test image.

        Args:
          run: a finished run, without labels.
          title: the title of the block.
          units: units of the lowest layer, by the names of their rows.
        """
        draws = run.model.draw(self.x_test[:1], _N_DRAWS, run.figure_seed(3))
        zs, values = inspection.snis_mean(draws), np.linspace(-2, 2, 9)
        rows = {
            name: inspection.traverse(run.model, zs, int(unit), values)[:, 0]
            for name, unit in units.items()
        }
        columns = [f"{value:g}".replace("-", "\N{MINUS SIGN}") for value in values]
        return plots.Block(title, rows, columns)

    def path(self, suffix: str) -> Path:
        """The path of a file of the task: its name with a suffix such as `.png`."""
        return self.directory / f"{self.name}{suffix}"

    def finish(
        self, table: str, figure: plots.Figure | None = None, title: str | None = None
    ) -> None:
        """Writes the table and the figure, and prints the table and the paths."""
        if figure is not None:
            plots.save(figure, self.path(".png"))
        text = f"{escaped(title or self.title)}\n\n{table}\n"
        self.path(".md").write_text(text, "utf-8")
        print(f"\n{text}")
        print(*sorted(self.directory.glob(f"{self.name}*.*")), sep="\n")
