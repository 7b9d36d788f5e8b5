"""Estimators: networks that choose their own width, as scikit-learn's regressors and classifiers."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import assert_all_finite, check_array, check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from n3.config.experiment import Experiment, InformationConfig, NetworkConfig, RunConfig, TrainingConfig
from n3.config.validation import suggestion
from n3.data.cells import in_memory, read_frame, require_targets
from n3.data.dataset import Dataset, build_dataset
from n3.data.encoding import TableEncoder
from n3.data.frames import Frame, column_names, frame_of, names_of_categories
from n3.data.sources import RawSamples, Table, standard_scaler
from n3.data.tables import copies_of
from n3.experiments import arms, results
from n3.experiments.ensembles import count_active
from n3.experiments.memory import find_devices
from n3.experiments.predict import outputs_of
from n3.experiments.run import TrainedArms, train_cells
from n3.nn.members import Ensemble
from n3.stats.summary import find_warnings, has_diverged
from n3.surgery.compact import compact
from n3.training.history import SizingWarning

_ARM = "growing"
_TEST_ROWS = 8
"""Training rows that stand where an experiment has its test samples; nothing is decided by them."""
_HISTORY = ("train_loss", "held_out_loss", "held_out_error", "size")


class _Growing(BaseEstimator):
    """What regressor and classifier share: parameters, training, and the outputs of the networks."""

    n_features_in_: int

    def __init__(
        self,
        *,
        capacity: Any = 64,
        members: Any = 5,
        steps: Any = 5000,
        learning_rate: Any = None,
        activation: Any = "tanh",
        budget: Any = None,
        refit: Any = False,
        random_state: Any = None,
        device: Any = "auto",
        verbose: Any = False,
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

    def _fit_table(
        self,
        frame: Frame,
        targets: np.ndarray,
        names: tuple[str, ...],
        weights: Float[np.ndarray, " rows"] | None,
    ) -> Any:
        """Train on encoded columns; the targets are numbers [rows, outputs], or labels [rows] from 0."""
        self._network = None
        encoder = TableEncoder.fit(frame)
        table = Table(RawSamples(encoder.transform(frame), targets), encoder.names, names, encoder)
        few = RawSamples(*(own[:_TEST_ROWS] for own in table.samples))
        data = replace(build_dataset("table", table, few, fit=standard_scaler), train_weights=weights)
        experiment = self._experiment(len(targets))
        recipes = {_ARM: arms.recipe_of(experiment, _ARM, data)}
        settings = {"devices": find_devices(self.device), "quiet": not self.verbose}
        self._keep(experiment, train_cells([experiment], recipes, [[data]], **settings), data)
        return self

    def _experiment(self, rows: int) -> Experiment:
        """The experiment of one seed, in which every member has two rows or more to hold out."""
        if rows < 4:
            raise ValueError(f"`X` must have 4 rows or more, two in each of two folds; got n_samples = {rows}.")
        members, most = _plain(self.members), rows // 2
        if members == 0:
            raise ValueError("`members` must be positive; got 0.")
        if isinstance(members, int) and members > most:
            warnings.warn(f"{rows} rows are enough for {most} `members`.", SizingWarning, stacklevel=4)
            members = most
        capacity = tuple(self.capacity) if isinstance(self.capacity, tuple | list) else (self.capacity,)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        return Experiment(
            network=NetworkConfig(
                method="information", capacity=tuple(map(_plain, capacity)), activation=self.activation
            ),
            training=TrainingConfig(
                steps=_plain(self.steps),
                learning_rate=_plain(self.learning_rate),
                members=members,
                refit=bool(self.refit),
            ),
            information=InformationConfig(criterion="held-out", budget=_plain(self.budget)),
            run=RunConfig(arms=(_ARM,), seeds=(seed,), device=self.device),
        ).resolved()

    def _keep(self, experiment: Experiment, trained: TrainedArms, data: Dataset) -> None:
        """Set the attributes of a fit, and warn of what speaks against it."""
        swept, stops = trained.swept[_ARM], arms.stops_of(experiment)
        lost = int(np.max(np.asarray(swept.state.diverged_at)))
        if lost >= 0:
            raise FloatingPointError(f"the loss was NaN or infinite after step {lost}: lower `learning_rate`.")
        self.preprocessing_ = data.preprocessing
        self._network = compact(jax.tree.map(lambda leaf: leaf[0], swept.state.net))
        self.sizes_ = tuple(int(own) for own in np.asarray(count_active(swept.state.net))[0])
        is_refit = not isinstance(self._network, Ensemble)
        self.members_ = [self._network] if is_refit else self._network.each()
        if is_refit:
            self.network_ = self._network
        told = {"rows": experiment.run.seeds, "steps": stops, "estimates": trained.estimates}
        found = results.label(trained.swept, **told)
        row = found.isel(seed=0).sel(arm=_ARM)
        self.history_ = {"step": stops} | {name: row[name].values.astype(float) for name in _HISTORY}
        self.oof_score_, self.oof_error_ = (float(self.history_[name][-1]) for name in _HISTORY[1:3])
        for warning in find_warnings(experiment, found, has_diverged(found)):
            warnings.warn(warning.text.split(": ", 1)[1] + ".", SizingWarning, stacklevel=4)

    def _frame(self, X: Any, *, reset: bool) -> Frame:
        """The columns of the inputs, which scikit-learn checks; after a fit by the names they had there."""
        if getattr(X, "columns", None) is None:
            checked = validate_data(self, X, reset=reset, dtype=None, ensure_all_finite="allow-nan")
        else:
            validate_data(self, X, reset=reset, skip_check_array=True)
            checked = X
            if not len(X):
                raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required.")
        frame = frame_of(checked)
        if reset:
            return read_frame("`X`", frame, categorical=names_of_categories(checked))
        return dict(zip(self.preprocessing_.encoder.inputs, frame.values(), strict=True))

    def _counting(
        self, frame: Frame, targets: np.ndarray, sample_weight: Any
    ) -> tuple[Frame, np.ndarray, Float[np.ndarray, " rows"] | None]:
        """Columns, targets and weights of the rows that count: all but those of weight 0."""
        rows = len(next(iter(frame.values())))
        if len(targets) != rows:
            raise ValueError(f"`X` and `y` must have as many rows; got {rows} and {len(targets)}.")
        if sample_weight is None:
            return frame, targets, None
        weights = check_array(sample_weight, ensure_2d=False, dtype=float, input_name="sample_weight")
        weights = np.full(rows, weights.item()) if weights.size == 1 and rows > 1 else weights
        if weights.shape != (rows,):
            raise ValueError(f"`sample_weight` must have shape ({rows},), one a row; got {weights.shape}.")
        if np.any(weights < 0) or not np.any(weights > 0):
            raise ValueError("`sample_weight` must be zero or more, and above zero in some row.")
        counts = weights > 0
        return {name: own[counts] for name, own in frame.items()}, targets[counts], weights[counts]

    def _values(self, X: Any) -> Float[np.ndarray, "rows targets"]:
        """Predictions of every row: numbers in the user's units, or probabilities."""
        check_is_fitted(self)
        frame, own = self._frame(X, reset=False), self.preprocessing_
        for note in own.encoder.notes(frame, in_memory(len(next(iter(frame.values()))))):
            warnings.warn(note, SizingWarning, stacklevel=3)
        return own.values(outputs_of(self._network, own.inputs(frame)))

    def __sklearn_is_fitted__(self) -> bool:
        """Whether the last fit came to its end."""
        return vars(self).get("_network") is not None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        return tags


def _warn_of_copies(frame: Frame, targets: Frame) -> None:
    """Warn where `read_table` refuses: scikit-learn's own checks learn a column of the inputs."""
    for column, name in copies_of(targets, frame):
        text = f"column `{column}` repeats the target `{name}`; leave it out."
        warnings.warn(text, SizingWarning, stacklevel=3)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


class GrowingRegressor(RegressorMixin, _Growing):
    """Regression by networks that choose their own width, of one target or several.

    `members` networks share one width. Each of them holds out a part of the rows, and the width is the smallest
    number of hidden units that is as good as the best on what is held out. Predictions are the mean of the
    members. Inputs are an array or a data frame of numbers and text: missing values and categories, rare and
    unseen ones included, are encoded as `n3.data.encoding` describes, and everything is scaled.

    Args:
        capacity: Hidden units allocated, the most that there can be; a tuple has a number for each layer.
        members: Networks; fewer where a part would have less than two rows.
        steps: Optimiser steps.
        learning_rate: Largest learning rate; None: 0.01.
        activation: Of the hidden units: tanh, relu, gelu, silu, softplus, sigmoid, sin or identity.
        budget: Most parameters that a network may have; None: any number.
        refit: Train one network of the width found on all rows, for as many steps, in place of the members.
        random_state: Seed of weights and folds: a number, a `RandomState`, or None: another at each fit.
        device: `auto`, `cpu` or `gpu`.
        verbose: Show progress on the error stream.

    Attributes:
        sizes_: Hidden units found, a number for each layer.
        oof_score_: Loss out of fold, the estimate for new rows: each by the member that has not trained on it.
            Squared error over the variance of each target, the mean over targets: 1 minus it is like `score`.
            After `refit` it is still that of the members.
        oof_error_: Standard error of that mean.
        history_: Over the steps recorded: `step`, `train_loss`, `held_out_loss`, `held_out_error` and `size`.
        members_: The networks, of scaled inputs and outputs, as `n3.CompactMLP`.
        network_: The one network after `refit`.
        preprocessing_: From rows to scaled inputs and back, as `n3.data.encoding.Preprocessing`.
        n_features_in_: Number of columns.
        feature_names_in_: Names of the columns of a data frame.

    Example:
        ```python
        model = n3.GrowingRegressor(random_state=0).fit(X, y)
        model.predict(X_new), model.sizes_, model.oof_score_
        ```
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "GrowingRegressor":
        """Train on rows `X` [rows, columns] and targets `y`, [rows] or [rows, outputs], in their own units.

        A row counts in losses, read-outs and estimates by its `sample_weight`, 0 or more; None: all alike.

        Raises:
            ValueError: If X, y or a weight has a bad shape or value, or a parameter is out of its range.
            TypeError: If a cell is neither a number nor a text.
            FloatingPointError: If training diverges.
        """
        if y is None:
            raise ValueError("`fit` requires y to be passed, but the target y is None.")
        frame = self._frame(X, reset=True)
        require_targets(y)
        targets = check_array(y, ensure_2d=False, dtype=float, input_name="y")
        frame, targets, weights = self._counting(frame, targets, sample_weight)
        self._is_flat = targets.ndim == 1
        targets = targets.reshape(len(targets), -1)
        names = column_names("y", targets.shape[1])
        _warn_of_copies(frame, dict(zip(names, targets.T, strict=True)))
        return self._fit_table(frame, targets, names, weights)

    def predict(self, X: Any) -> np.ndarray:
        """Predictions of the rows, in the unit and the shape of the targets that were learnt.

        Raises:
            NotFittedError: Before `fit`.
            ValueError: If the columns are not those of `fit`.
        """
        values = self._values(X)
        return values[:, 0] if self._is_flat else values

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class GrowingClassifier(ClassifierMixin, _Growing):
    """Classification by networks that choose their own width, of two classes or more, with any labels.

    `members` networks share one width. Each of them holds out a part of the rows, and the width is the smallest
    number of hidden units that is as good as the best on what is held out. Predictions are the mean of the
    members. Inputs are an array or a data frame of numbers and text: missing values and categories, rare and
    unseen ones included, are encoded as `n3.data.encoding` describes, and everything is scaled.

    Args:
        capacity: Hidden units allocated, the most that there can be; a tuple has a number for each layer.
        members: Networks; fewer where a part would have less than two rows.
        steps: Optimiser steps.
        learning_rate: Largest learning rate; None: 0.01.
        activation: Of the hidden units: tanh, relu, gelu, silu, softplus, sigmoid, sin or identity.
        class_weight: Weight of every row of a class: a mapping from classes, `balanced` (the same sum for each
            class), or None: 1. Probabilities are then those of classes so weighted.
        budget: Most parameters that a network may have; None: any number.
        refit: Train one network of the width found on all rows, for as many steps, in place of the members.
        random_state: Seed of weights and folds: a number, a `RandomState`, or None: another at each fit.
        device: `auto`, `cpu` or `gpu`.
        verbose: Show progress on the error stream.

    Attributes:
        sizes_: Hidden units found, a number for each layer.
        oof_score_: Loss out of fold, the estimate for new rows: each by the member that has not trained on it.
            Nats: the mean of -ln(probability of the class).
            After `refit` it is still that of the members.
        oof_error_: Standard error of that mean.
        history_: Over the steps recorded: `step`, `train_loss`, `held_out_loss`, `held_out_error` and `size`.
        members_: The networks, of scaled inputs and outputs, as `n3.CompactMLP`.
        network_: The one network after `refit`.
        preprocessing_: From rows to scaled inputs and back, as `n3.data.encoding.Preprocessing`.
        n_features_in_: Number of columns.
        feature_names_in_: Names of the columns of a data frame.

    Example:
        ```python
        model = n3.GrowingClassifier(random_state=0).fit(X, y)
        model.predict_proba(X_new), model.sizes_, model.oof_score_
        ```
    """

    def __init__(
        self,
        *,
        capacity: Any = 64,
        members: Any = 5,
        steps: Any = 5000,
        learning_rate: Any = None,
        activation: Any = "tanh",
        class_weight: Any = None,
        budget: Any = None,
        refit: Any = False,
        random_state: Any = None,
        device: Any = "auto",
        verbose: Any = False,
    ):
        super().__init__(
            capacity=capacity,
            members=members,
            steps=steps,
            learning_rate=learning_rate,
            activation=activation,
            budget=budget,
            refit=refit,
            random_state=random_state,
            device=device,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "GrowingClassifier":
        """Train on rows `X` [rows, columns] and labels `y` [rows]: texts, truths or numbers.

        A row counts in losses, read-outs and estimates by its `sample_weight`, 0 or more, times the weight of
        its class; None: all alike.

        Raises:
            ValueError: If X, y or a weight has a bad shape or value, y one class, or a parameter is out of its
                range.
            TypeError: If a cell is neither a number nor a text.
            FloatingPointError: If training diverges.
        """
        if y is None:
            raise ValueError("`fit` requires y to be passed, but the target y is None.")
        frame = self._frame(X, reset=True)
        y = column_or_1d(y, warn=True)
        require_targets(y)
        if y.dtype.kind == "f":
            assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        frame, y, weights = self._counting(frame, y, sample_weight)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("`y` must hold two classes or more; got 1 class.")
        _warn_of_copies(frame, frame_of({"y": y}))
        if self.class_weight is not None:
            self._check_class_weight()
            own = compute_sample_weight(self.class_weight, y)
            weights = own if weights is None else own * weights
            if not np.all(weights > 0):
                raise ValueError("`class_weight` must be above 0 for every class.")
        return self._fit_table(frame, labels, tuple(map(str, self.classes_)), weights)

    def _check_class_weight(self) -> None:
        """Refuse what is neither a mapping nor `balanced`: scikit-learn would blame a function of its own."""
        if not isinstance(self.class_weight, Mapping) and self.class_weight != "balanced":
            due = "must be a mapping from classes to weights, 'balanced' or None"
            hint = suggestion(str(self.class_weight), ("balanced",))
            raise ValueError(f"`class_weight` {due}; got {self.class_weight!r}.{hint}")

    def predict_proba(self, X: Any) -> Float[np.ndarray, "rows classes"]:
        """Probability of each class of `classes_`; errors as `predict`."""
        return self._values(X)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row.

        Raises:
            NotFittedError: Before `fit`.
            ValueError: If the columns are not those of `fit`.
        """
        places = self._values(X).argmax(axis=1)
        return self.classes_[places]
