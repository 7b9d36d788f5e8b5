"""Tables: the estimators as they come against scikit-learn's MLP and gradient boosting, on twelve tables.

    uv run --extra data benchmarks/tables.py [--tables NAME ...] [--splits N] [--out FILE]

A quarter of the rows is for testing, drawn anew for each split. Losses are of the test rows: squared error over
the variance of the target, or cross-entropy in nats. MLPs have 100 hidden units, with and without early
stopping, and see scaled inputs and targets, categories as one column each and missing numbers as medians.
Gradient boosting sees categories as numbers, and missing numbers as they are.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

import n3

ROWS = 600
"""Of the tables that are drawn."""
CATEGORIES = make_column_selector(dtype_exclude="number")
NUMBERS = make_column_selector(dtype_include="number")


def houses(rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """Numbers with holes, a place and a state; a price in thousands."""
    size, age = rng.gamma(6.0, 20.0, ROWS), rng.uniform(0, 90, ROWS)
    place = rng.choice(["centre", "north", "south", "west"], ROWS, p=[0.2, 0.4, 0.3, 0.1])
    state = rng.choice(["good", "fair", "poor"], ROWS, p=[0.5, 0.4, 0.1])
    worth = {"centre": 4.0, "north": 2.2, "south": 2.6, "west": 1.8}
    price = size * np.vectorize(worth.get)(place) * np.exp(-age / 120) * np.where(state == "poor", 0.6, 1.0)
    frame = pd.DataFrame({"size": size, "age": age, "place": place, "state": state})
    frame.loc[rng.uniform(size=ROWS) < 0.15, "age"] = np.nan
    return frame, price + rng.normal(0, 15, ROWS)


def loans(rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """Numbers with holes and two columns of categories; one class in five."""
    income, debt = rng.lognormal(3.5, 0.5, ROWS), rng.lognormal(2.5, 0.8, ROWS)
    job = rng.choice(["office", "craft", "none", "own"], ROWS, p=[0.4, 0.35, 0.1, 0.15])
    home = rng.choice(["rent", "own"], ROWS)
    score = 1.5 * np.log(debt / income) + 1.2 * (job == "none") - 0.8 * (home == "own") - 0.2
    frame = pd.DataFrame({"income": income, "debt": debt, "job": job, "home": home})
    frame.loc[rng.uniform(size=ROWS) < 0.1, "income"] = np.nan
    return frame, np.where(rng.uniform(size=ROWS) < 1 / (1 + np.exp(-score)), "late", "paid")


def one_dimensional(rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """A thousand of the digits of the package mnist1d."""
    data = n3.load_dataset("mnist1d", train_samples=1000, seed=int(rng.integers(100)))
    return pd.DataFrame(data.input_scaler.inverse(data.train_inputs)), data.train_targets.argmax(axis=1)


def bundled(load: Callable[..., Any]) -> Callable[..., Any]:
    """A set that comes with scikit-learn."""
    return lambda rng: (lambda own: (pd.DataFrame(own[0]), own[1]))(load(return_X_y=True))


def drawn(make: Callable[..., Any], noise: float) -> Callable[..., Any]:
    """A problem of Friedman."""
    return lambda rng: (lambda own: (pd.DataFrame(own[0]), own[1]))(
        make(ROWS, noise=noise, random_state=int(rng.integers(2**31)))
    )


TABLES: dict[str, Callable[[np.random.Generator], tuple[pd.DataFrame, np.ndarray]]] = {
    "iris": bundled(datasets.load_iris),
    "wine": bundled(datasets.load_wine),
    "breast-cancer": bundled(datasets.load_breast_cancer),
    "digits": bundled(datasets.load_digits),
    "diabetes": bundled(datasets.load_diabetes),
    "linnerud": bundled(datasets.load_linnerud),
    "mnist1d": one_dimensional,
    "friedman1": drawn(datasets.make_friedman1, 1.0),
    "friedman2": drawn(datasets.make_friedman2, 100.0),
    "friedman3": drawn(datasets.make_friedman3, 0.1),
    "houses": houses,
    "loans": loans,
}


def models(is_classes: bool, seed: int) -> dict[str, Any]:
    """The estimators by name; the boosting of several targets at once is not among them."""
    mlp = MLPClassifier if is_classes else MLPRegressor
    trees = HistGradientBoostingClassifier if is_classes else HistGradientBoostingRegressor
    grown = n3.GrowingClassifier if is_classes else n3.GrowingRegressor
    filled = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    wide = ColumnTransformer(
        [("n", filled, NUMBERS), ("c", OneHotEncoder(handle_unknown="ignore"), CATEGORIES)]
    )
    unknown = {"handle_unknown": "use_encoded_value", "unknown_value": -1}
    codes = ColumnTransformer([("c", OrdinalEncoder(**unknown), CATEGORIES)], remainder="passthrough")

    def scaled(model: Any) -> Any:
        whole = make_pipeline(wide, model)
        return whole if is_classes else TransformedTargetRegressor(whole, transformer=StandardScaler())

    return {
        "growing": grown(random_state=seed),
        "MLP": scaled(mlp(max_iter=1000, random_state=seed)),
        "MLP, early stopping": scaled(mlp(max_iter=1000, early_stopping=True, random_state=seed)),
        "boosting": make_pipeline(codes, trees(random_state=seed)),
    }


def measured(name: str, split: int) -> dict[str, Any]:
    """Test losses of every model on one split, and what the growing one found and took."""
    frame, y = TABLES[name](np.random.default_rng(split))
    frame.columns = [str(column) for column in frame.columns]
    is_classes = y.dtype.kind in "UOi" or len(np.unique(y)) <= 10
    X, X_test, y_train, y_test = train_test_split(
        frame, y, test_size=0.25, random_state=split, stratify=y if is_classes else None
    )
    found: dict[str, Any] = {}
    for label, model in models(is_classes, split).items():
        if label == "boosting" and y.ndim > 1:
            continue
        started = time.process_time()
        with warnings.catch_warnings(action="ignore"):
            model.fit(X, y_train)
            if is_classes:
                loss = log_loss(y_test, model.predict_proba(X_test), labels=model.classes_)
            else:
                loss = float(np.mean((model.predict(X_test) - y_test) ** 2 / np.var(y_test, axis=0)))
        found[label] = loss
        if label == "growing":
            found["sizes"], found["cpu_seconds"] = model.sizes_, time.process_time() - started
    return found


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Median losses, a row for each table, and the mean rank among the growing one and both MLPs."""
    names = "growing", "MLP", "MLP, early stopping", "boosting"
    lines = [f"| table | units | {' | '.join(names)} | over the better |", "|---" * 7 + "|"]
    ranks, near = [], 0
    for task, splits in found.items():
        medians = {name: np.median([own.get(name, np.nan) for own in splits]) for name in names}
        ranks.append([sorted(names[:3], key=medians.get).index(name) + 1 for name in names[:3]])
        better = np.nanmin([min(medians["MLP"], medians["MLP, early stopping"]), medians["boosting"]])
        near += medians["growing"] <= 1.05 * better
        units = np.median([sum(own["sizes"]) for own in splits])
        cells = " | ".join("-" if np.isnan(own) else f"{own:.3g}" for own in medians.values())
        lines.append(f"| {task} | {units:.0f} | {cells} | {medians['growing'] / better:.2f} |")
    means = " | ".join(f"{own:.2f}" for own in np.mean(ranks, axis=0))
    lines.append(f"| mean rank; within 5 % of the better | | {means} | | {near} of {len(found)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every table on every split; what is done is written after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tables.json"))
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for name in options.tables:
        found[name] = [measured(name, split) for split in range(options.splits)]
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        print(name, found[name], flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
