"""Estimators: networks that choose their own width, as scikit-learn's regressors and classifiers."""

import warnings
from numbers import Integral
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from n3.config.experiment import Experiment, InformationConfig, NetworkConfig, RunConfig, TrainingConfig
from n3.data.dataset import Dataset, build_dataset
from n3.data.encoding import TableEncoder
from n3.data.frames import Frame, column_names, frame_of
from n3.data.sources import RawSamples, Table, standard_scaler
from n3.experiments import arms, results
from n3.experiments.ensembles import count_active
from n3.experiments.memory import find_devices
from n3.experiments.predict import outputs_of, plain
from n3.experiments.run import TrainedArms, train_cells
from n3.nn.members import Ensemble
from n3.stats.summary import find_warnings, has_diverged

ARM = "growing"
TESTS = 8
"""Training rows that stand where an experiment has its test samples; nothing is decided by them."""


class SizingWarning(UserWarning):
    """What speaks against the size that a fit has found."""


class _Growing(BaseEstimator):
    """What regressor and classifier share: parameters, fit, and outputs of the networks."""

    n_features_in_: int

    def __init__(
        self,
        *,
        capacity: int | tuple[int, ...] = 64,
        members: int = 5,
        steps: int = 5000,
        learning_rate: float | None = None,
        activation: str = "tanh",
        budget: int | None = None,
        refit: bool = False,
        random_state: Any = None,
        device: Literal["auto", "cpu", "gpu"] = "auto",
        verbose: bool = False,
    ):
        self.capacity = capacity
        self.members = members
        self.steps = steps
        self.learning_rate = learning_rate
        self.activation = activation
        self.budget = budget
        self.refit = refit
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def _fit_table(self, frame: Frame, targets: np.ndarray, names: tuple[str, ...]) -> Any:
        encoder = TableEncoder.fit(frame)
        table = Table(RawSamples(encoder.transform(frame), targets), encoder.names, names, encoder)
        few = RawSamples(*(own[:TESTS] for own in table.samples))
        data = build_dataset("table", table, few, fit=standard_scaler)
        experiment = self._experiment(len(targets))
        recipes = {ARM: arms.recipe_of(experiment, ARM, data)}
        devices = find_devices(self.device)
        trained = train_cells([experiment], recipes, [[data]], devices=devices, quiet=not self.verbose)
        self._keep(experiment, trained, data)
        return self

    def _experiment(self, rows: int) -> Experiment:
        """The experiment of one seed; a member has two rows or more to hold out."""
        if rows < 4:
            raise ValueError(f"`X` must have 4 rows or more, two in each of two folds; got n_samples = {rows}.")
        members = min(self.members, rows // 2) if isinstance(self.members, Integral) else self.members
        if members == 0:
            raise ValueError("`members` must be positive; got 0.")
        capacity = self.capacity if isinstance(self.capacity, tuple | list) else (self.capacity,)
        capacity = tuple(int(own) if isinstance(own, Integral) else own for own in capacity)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        return Experiment(
            network=NetworkConfig(method="information", capacity=capacity, activation=self.activation),
            training=TrainingConfig(
                steps=_plain_number(self.steps),
                learning_rate=_plain_number(self.learning_rate),
                members=_plain_number(members),
                refit=bool(self.refit),
            ),
            information=InformationConfig(criterion="held-out", budget=_plain_number(self.budget)),
            run=RunConfig(arms=(ARM,), seeds=(seed,), device=self.device),
        ).resolved()

    def _keep(self, experiment: Experiment, trained: TrainedArms, data: Dataset) -> None:
        swept = trained.swept[ARM]
        lost = int(np.max(np.asarray(swept.state.diverged_at)))
        if lost >= 0:
            raise FloatingPointError(f"the loss was NaN or infinite after step {lost}: lower `learning_rate`.")
        net = jax.tree.map(lambda leaf: leaf[0], swept.state.net)
        self._preprocessing, self._network = data.preprocessing, plain(net)
        self.sizes_ = tuple(int(own) for own in np.asarray(count_active(swept.state.net))[0])
        self.members_ = self._network.each() if isinstance(self._network, Ensemble) else [self._network]
        if self.refit:
            self.network_ = self._network
        stops = arms.stops_of(experiment)
        told = {"rows": experiment.run.seeds, "steps": stops, "estimates": trained.estimates}
        found = results.label(trained.swept, **told)
        row = found.isel(seed=0).sel(arm=ARM)
        shown = ("train_loss", "held_out_loss", "held_out_error", "size")
        self.history_ = {"step": stops} | {name: row[name].values.astype(float) for name in shown}
        self.oof_score_ = float(row["held_out_loss"].values[-1])
        self.oof_error_ = float(row["held_out_error"].values[-1])
        for warning in find_warnings(experiment, found, has_diverged(found)):
            warnings.warn(warning.text.split(": ", 1)[1], SizingWarning, stacklevel=4)

    def _frame(self, X: Any, *, reset: bool) -> Frame:
        """Columns of the inputs, as scikit-learn checks them."""
        if getattr(X, "columns", None) is None:
            own = {"dtype": None, "ensure_all_finite": "allow-nan"}
            checked = validate_data(self, X, reset=reset, **own)
            names = getattr(self, "feature_names_in_", None)
            names = column_names("x", self.n_features_in_) if names is None else names
            return frame_of(checked, names=[str(name) for name in names])
        validate_data(self, X, reset=reset, skip_check_array=True)
        if not len(X):
            raise ValueError("`X` must have a row or more; found array with 0 sample(s).")
        return frame_of(X)

    def _values(self, X: Any) -> Float[np.ndarray, "rows targets"]:
        """Predictions of every row: numbers in the user's units, or probabilities."""
        check_is_fitted(self)
        inputs = self._preprocessing.inputs(self._frame(X, reset=False))
        return self._preprocessing.values(outputs_of(self._network, inputs))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        tags.non_deterministic = False
        return tags


def _plain_number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


class GrowingRegressor(RegressorMixin, _Growing):
    """Regression by networks that choose their own width."""

    def fit(self, X: Any, y: Any) -> "GrowingRegressor":
        """Train."""
        frame = self._frame(X, reset=True)
        targets = check_array(y, ensure_2d=False, dtype=float, input_name="y")
        self._is_flat = targets.ndim == 1
        targets = targets[:, None] if self._is_flat else targets
        return self._fit_table(frame, targets, column_names("y", targets.shape[1]))

    def predict(self, X: Any) -> np.ndarray:
        """Predictions."""
        values = self._values(X)
        return values[:, 0] if self._is_flat else values


class GrowingClassifier(ClassifierMixin, _Growing):
    """Classification by networks that choose their own width."""

    def fit(self, X: Any, y: Any) -> "GrowingClassifier":
        """Train."""
        frame = self._frame(X, reset=True)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("`y` must hold two classes or more; got 1 class.")
        return self._fit_table(frame, labels, tuple(map(str, self.classes_)))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities."""
        return self._values(X)

    def predict(self, X: Any) -> np.ndarray:
        """Classes."""
        places = self._values(X).argmax(axis=1)
        return self.classes_[places]
