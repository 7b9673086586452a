"""What scripts/labels.py measures beside its runs' own evaluations: the usual classifiers on the same splits, and the
rarest class among samples."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebm_lab.core.interfaces import Dataset
from ebm_lab.evaluation._judge import judge
from ebm_lab.runs.load import load_run
from ebm_lab.runs.train import Result
from ebm_lab.statistics.calibration import ece, fit_temperature

Row = dict[str, float]
JUDGE = {"hidden": 128, "points": 10_000, "passes": 130_000}
"""The settings of the independent classifier, as in evaluation.classifier."""


def inputs(data: Dataset, x: Tensor) -> np.ndarray:
    """Return rows (n, d) for scikit-learn: images with values from 0 to 1, columns of mean 0 and deviation 1."""
    if data.bounds is not None:
        low, high = data.bounds
        return ((x - low) / (high - low)).flatten(1).double().numpy()
    std = data.train.std(0, correction=0)
    return ((x - data.mean) / torch.where(std > 0, std, 1.0)).double().numpy()


def splits(data: Dataset, *names: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and the labels of these splits, one after the other."""
    assert data.labels, "all data sets of the study have labels"
    x = torch.cat([getattr(data, n) for n in names])
    return inputs(data, x), torch.cat([data.labels[n] for n in names]).numpy()


def judged(data: Dataset, log_p: Callable[[np.ndarray], np.ndarray], *, scaled: bool) -> Row:
    """Return the accuracy and the ECE on the test split of log p(y | x), (n, K); scaled: also the ECE with the
    temperature that fits the validation split."""
    x, y = splits(data, "test")
    logits, labels = torch.from_numpy(log_p(x)), torch.from_numpy(y)
    row = {"accuracy": float((logits.argmax(1) == labels).double().mean()), "ece": ece(logits.softmax(1), labels)}
    if scaled:
        x, y = splits(data, "val")
        temperature = fit_temperature(torch.from_numpy(log_p(x)), torch.from_numpy(y))
        if temperature is not None:
            row["ece_scaled"] = ece((logits / temperature).softmax(1), labels)
    return row


def logs(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return x -> log p(y | x) of a fitted classifier; a probability of 0 counts as 1e-12."""
    return lambda x: np.log(np.clip(model.predict_proba(x), 1e-12, None))


def of_digits(data: Dataset, given: Tensor, seed: int) -> dict[str, Row]:
    """Fit to the training split, with all its labels; the probabilities of SVC by Platt's scaling, in five folds."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    x, y = splits(data, "train")
    linear = LogisticRegression(max_iter=2000).fit(x, y)
    options: Any = {"ensemble": False}  # scikit-learn's annotations deny False
    platt = CalibratedClassifierCV(SVC(), **options).fit(x, y)
    test, labels = splits(data, "test")
    support = judged(data, logs(platt), scaled=True)
    support["accuracy"] = float((SVC().fit(x, y).predict(test) == labels).mean())
    return {"logistic regression": judged(data, logs(linear), scaled=True), "SVC": support}


def of_few(data: Dataset, given: Tensor, seed: int) -> dict[str, Row]:
    """Fit to the training split, of which only the labels `given` (n,) that are not negative are known."""
    from sklearn.semi_supervised import LabelSpreading
    from sklearn.svm import SVC

    x, known = splits(data, "train")[0], (given >= 0).numpy()
    test, labels = splits(data, "test")
    spread = LabelSpreading(kernel="knn", n_neighbors=7, alpha=0.2)
    models = {"SVC": SVC().fit(x[known], given.numpy()[known]), "label spreading": spread.fit(x, given.numpy())}
    with np.errstate(invalid="ignore"):  # rows that no label has spread to: 0 / 0, which scikit-learn calls class 0
        return {name: {"accuracy": float((m.predict(test) == labels).mean())} for name, m in models.items()}


def of_table(data: Dataset, given: Tensor, seed: int) -> dict[str, Row]:
    """Fit to the training split, with all its labels."""
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    models = {
        "logistic regression": LogisticRegression(),
        "random forest": RandomForestClassifier(random_state=seed),
        "gradient boosting": GradientBoostingClassifier(random_state=seed),
    }
    x, y = splits(data, "train")
    return {name: judged(data, logs(m.fit(x, y)), scaled=False) for name, m in models.items()}


def known(data: Dataset) -> Tensor:
    """Return the labels of the training rows as training knew them, (n,), with -1 for those it did not."""
    assert data.labels, "all data sets of the study have labels"
    return data.labels["train"] if data.given_labels is None else data.given_labels


def smallest_share(run: Result) -> float:
    """Return the share of the rarest class in 200 samples of p(x), by a classifier of the real data."""
    x = load_run(run.path).sample(200, raw=False)
    assert run.dataset.labels is not None, "digits have labels"
    count = torch.bincount(judge(run.dataset, **JUDGE).classes(x), minlength=10)
    return float(count.min() / count.sum())
