"""A density estimator with the methods of scikit-learn's: `EBMDensity().fit(X).score_samples(X)`.

This module imports scikit-learn; `ebm_lab` imports it on the first use of `ebm_lab.EBMDensity`.
"""

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ebm_lab.cli.fit import fit
from ebm_lab.core.errors import UserError
from ebm_lab.core.random import stream
from ebm_lab.runs.loaded import LogZ

FEWEST = 10
"""The fewest rows that can be split into training, validation and test points."""
KEPT = ("config.yaml", "summary.json", "checkpoints/last.pt")
"""The files of a run from which a pickled estimator is restored."""


class EBMDensity(DensityMixin, BaseEstimator):
    """An energy-based model of the density of points.

    objective, energy: as in `train.py`; steps: of training, None for those of the objective's recipe; overrides:
    further settings as text, ("optim.lr=1e-3",); random_state: seed of training, and of samples unless they get
    their own; output_dir: where the run and its data are kept, None for a temporary directory.

    Attributes after `fit`: run_, the run as `ebm_lab.load_run` returns it; n_features_in_; log_z_, the log Z of the
    energy in the coordinates of training, with its error and source.
    """

    def __init__(
        self,
        objective: str = "nce",
        *,
        energy: str = "mlp",
        steps: int | None = None,
        overrides: Sequence[str] = (),
        random_state: Any = None,
        output_dir: str | None = None,
    ) -> None:
        self.objective, self.energy, self.steps, self.overrides = objective, energy, steps, overrides
        self.random_state, self.output_dir = random_state, output_dir

    def fit(self, X: Any, y: Any = None) -> "EBMDensity":
        """Train on the rows of X (n, d); a tenth each is held out for validation and test. y is ignored.

        Raises ValueError for a mistake in the settings or the rows.
        """
        points = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=FEWEST)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        share = max(0.1, 2.01 / len(points))  # a split of one point has no spread
        folder = self.output_dir or self._temporary()
        settings: dict[str, Any] = {} if self.steps is None else {"steps": self.steps}
        try:
            self.run_ = fit(
                points,
                self.objective,
                energy=self.energy,
                seed=seed,
                evaluation=[],
                dataset={"space": "continuous", "val": share, "test": share},
                output_dir=folder,
                overrides=self.overrides,
                **settings,
            )
        except UserError as error:
            raise ValueError(str(error)) from None
        self.seed_ = seed
        self.__dict__.pop("log_z_", None)
        return self

    def __getattr__(self, name: str) -> Any:
        if name == "log_z_" and "run_" in vars(self):
            self.log_z_ = self._log_z()
            return self.log_z_
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def _log_z(self) -> LogZ:
        """Return log Z by a formula or quadrature, or by annealed importance sampling instead of a learnt value."""
        found = self.run_.log_z
        if found.source != "learnt":
            return found
        report = self.run_.evaluate("ais").metrics
        return LogZ(report["ais_log_z"], report["ais_log_z_se"], "ais")

    def score_samples(self, X: Any) -> np.ndarray:
        """Return log p(x) in nats for each row of X, (n,)."""
        x = torch.from_numpy(np.array(self._rows(X)))
        with torch.no_grad():
            found = self.run_.log_prob(x, log_z=self.log_z_)
        return found.values.numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean log p(x) in nats over the rows of X, as GaussianMixture does. y is ignored."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw points from the model by its sampler, (n_samples, n_features_in_)."""
        check_is_fitted(self)
        given = self.seed_ if random_state is None else random_state
        seed = int(check_random_state(given).randint(2**31 - 1))
        draws = stream(seed, "sample", 0, self.run_.parts.generator.device)
        return self.run_.sample(n_samples, draws).double().numpy()

    def _temporary(self) -> str:
        """Make a directory that is removed with this estimator."""
        folder = tempfile.mkdtemp(prefix="ebm_lab_")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _rows(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return cast(np.ndarray, validate_data(self, X, dtype=[np.float64, np.float32], reset=False))

    def __sklearn_is_fitted__(self) -> bool:
        return "run_" in vars(self)

    def __getstate__(self) -> dict[str, Any]:
        state = {**cast(dict[str, Any], super().__getstate__())}
        if "run_" in state:
            state["log_z_"] = self.log_z_
            path = Path(state.pop("run_").path)
            state["_files"] = {name: (path / name).read_bytes() for name in KEPT}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = state.pop("_files", None)
        super().__setstate__(state)
        if files:
            from ebm_lab.runs.load import load_run

            folder = Path(self._temporary())
            for name, content in files.items():
                file = folder / name
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(content)
            self.run_ = load_run(folder, data="kept")
