"""Fit the base of an energy to the training data, in float64: a Gaussian, a mixture, a Student law, or the best.

mixture:  EM from several starts, on principal axes of one scale and of unit variances: clusters show in the first,
          directions of very different scales in the second. In many dimensions, where all points are about equally far
          apart, also from clusters along directions in which the data are no Gaussian (projections.py). The number of
          Gaussians is the smallest whose validation likelihood, by SEARCHED rows, comes within NATS of the best. More
          rows bear more Gaussians: where EM is cheap, their number grows with MORE_ROWS while the likelihood rises by
          more than a standard error.
student:  EM for mean and scatter, weights (nu + d) / (nu + q_i), and nu by the likelihood itself.
scales:   sum_j w_j N(m, t_j S), mean and scatter S of the Student law, four weights and scales by EM: a heavy-tailed
          law that a blur leaves a mixture of Gaussians.

Chuanhai Liu and Donald B. Rubin, The ECME Algorithm, 1994 (the likelihood's own maximum over nu).
D. F. Andrews and C. L. Mallows, Scale Mixtures of Normal Distributions, 1974.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ebm_lab.core.errors import UserError
from ebm_lab.core.interfaces import Dataset
from ebm_lab.core.random import subset
from ebm_lab.distributions.base import Base, MixtureBase, StudentBase
from ebm_lab.distributions.coordinates import squared_distances, student_step
from ebm_lab.distributions.product import fit_product
from ebm_lab.distributions.projections import are_hidden, non_gaussian_directions

BaseName = Literal["none", "gaussian", "mixture", "student", "bernoulli", "auto"]
NATS = 0.005
"""What a simpler law may be worse by on the validation split and still be chosen."""
ROWS, MORE_ROWS = 10_000, 20_000
"""Rows that a mixture is fitted to, at most; the second where EM is cheap, and for the other laws."""
CHEAP = 10_000_000
"""Rows x Gaussians x dimensions^2, at most, where EM is cheap: its cost is proportional to them."""
SEARCHED = 4000
"""Rows by which the number of Gaussians is chosen, at most."""
COMPONENTS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 25, 32)
"""Numbers of Gaussians that are tried; two in a row that are no better end the search."""
STARTS, TRIED = 10, 4
"""Starts of EM in either coordinates: of the fit, and of each number of Gaussians that is tried."""
SCALES = 4
"""Gaussians in the heavy-tailed law of many noise levels."""
FLOOR = 1e-6
"""The least variance along an axis, in units of the data's scale squared; for images IMAGE_FLOOR."""
IMAGE_FLOOR = 1e-3


def are_images(dataset: Dataset) -> bool:
    """Are the samples images, for which no mixture or Student law is fitted?"""
    return dataset.bounds is not None or len(dataset.event_shape) == 3


def fit_base(dataset: Dataset, name: BaseName, levels: bool) -> tuple[Base | None, str, list[str]]:
    """Return the base `name` for the data, the name of its law (what `auto` chose), and lines for the user.

    levels: the base is to be blurred. Raises UserError for a law that does not suit the data."""
    if name == "none":
        return None, name, []
    if dataset.space != "continuous":
        if name not in ("bernoulli", "auto") or levels:
            raise UserError(f"energy.base={name}: is for real numbers; for discrete data choose energy.base=bernoulli")
        return fit_product(dataset).to(dataset.mean), "bernoulli", []
    if name == "bernoulli":
        raise UserError("energy.base=bernoulli: is for bits and categories; choose energy.base=gaussian, say")
    if are_images(dataset):
        if name in ("mixture", "student"):
            raise UserError(f"energy.base={name}: is for points; for images choose energy.base=gaussian or none")
        return _of_images(dataset), "gaussian", []
    fits = {"gaussian": fit_gaussian, "student": fit_scales if levels else fit_student, "mixture": fit_mixture}
    x, held_out = (subset(part, MORE_ROWS).flatten(1).double().cpu() for part in (dataset.train, dataset.val))
    if name != "auto":
        base = fits[name](x, held_out)
        return _finish(base, dataset), name, [f"energy.base={name}: {base.in_words()}"]
    found = {law: fit(x, held_out) for law, fit in fits.items()}
    nll = {law: float(base(held_out).mean()) for law, base in found.items()}
    chosen = next(law for law in fits if nll[law] <= min(nll.values()) + NATS)
    each = ", ".join(f"{law} {value:.3f}" for law, value in nll.items())
    said = f"energy.base=auto: {chosen}, {found[chosen].in_words()}; -log p on the validation split, in nats: {each}"
    return _finish(found[chosen], dataset), chosen, [said]


def _finish(base: Base, dataset: Dataset) -> Base:
    base.shape = dataset.event_shape
    return base.to(dataset.mean)


def _of_images(dataset: Dataset) -> MixtureBase:
    """A Gaussian whose pixels are independent."""
    flat = dataset.train.flatten(1).double()
    variances = flat.var(0) + IMAGE_FLOOR * dataset.scale**2
    base = MixtureBase(dataset.event_shape, torch.ones(1).to(flat), flat.mean(0)[None], None, variances[None])
    return base.to(dataset.mean)  # pyright: ignore[reportReturnType]


def _principal(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(mean (d,), axes (d, d), variances (d,), added (d,)) of x (n, d): each variance is at least FLOOR of their mean,
    and `added` is what it lacked."""
    d = x.shape[1]
    variances, axes = torch.linalg.eigh(x.T.cov(correction=0).view(d, d))
    floored = variances.clamp_min(FLOOR * float(variances.mean()))
    return x.mean(0), axes, floored, floored - variances


def fit_gaussian(x: Tensor, held_out: Tensor) -> MixtureBase:
    """Fit a Gaussian with a full covariance to x (n, d) by maximum likelihood."""
    mean, axes, variances, _ = _principal(x)
    return MixtureBase(tuple(x.shape[1:]), torch.ones(1).to(x), mean[None], axes[None], variances[None])


def fit_mixture(x: Tensor, held_out: Tensor) -> MixtureBase:
    """Fit a mixture of full-covariance Gaussians to x (n, d); `held_out` (m, d) chooses their number."""
    few, losses, best = subset(x, SEARCHED), {}, math.inf
    hidden = non_gaussian_directions(x, held_out) if are_hidden(len(x), x.shape[1]) else None
    for k in (k for k in COMPONENTS if k == 1 or 2 * k * x.shape[1] <= len(few)):
        base = fit_gaussian(few, held_out) if k == 1 else fit_components(few, k, TRIED, hidden)
        losses[k] = float(base(held_out).mean())
        best = min(losses.values())
        if best < min(list(losses.values())[-2:]):
            break
    chosen = next(k for k, loss in losses.items() if loss <= best + NATS)
    most = subset(x, ROWS)
    base = fit_gaussian(most, held_out) if chosen == 1 else fit_components(most, chosen, STARTS, hidden)
    return _enlarged(base, x, held_out, hidden) if len(x) > len(few) else base


def _enlarged(base: MixtureBase, x: Tensor, held_out: Tensor, hidden: Tensor | None) -> MixtureBase:
    """Return a mixture of more Gaussians, as long as each is better by over a standard error and EM is cheap."""
    n, d = x.shape
    for k in (k for k in COMPONENTS if k > len(base.means) and n * k * d**2 <= CHEAP):
        larger = fit_components(x, k, TRIED, hidden)
        gain = base(held_out) - larger(held_out)
        if gain.mean() <= gain.std() / math.sqrt(len(gain)):
            break
        base = larger
    return base


def fit_components(x: Tensor, k: int, starts: int, hidden: Tensor | None = None) -> MixtureBase:
    """Fit a mixture of k Gaussians to x (n, d): the likeliest of `starts` in each coordinates, and of one from clusters
    along the `hidden` directions (m, d), if there are any."""
    mean, axes, variances, added = _principal(x)
    fits: list[tuple[float, MixtureBase]] = []
    alike = float(variances.max()) < 4 * float(variances.min())
    ways = [({"n_init": starts}, variances.mean().sqrt().expand_as(variances)), ({"n_init": starts}, variances.sqrt())]
    if hidden is not None and len(hidden):
        ways.append((_clustered((x - mean) @ hidden.T, (x - mean) @ axes / variances.sqrt(), k), variances.sqrt()))
    for start, scale in ways[alike:]:
        fit = _expectation_maximisation((x - mean) @ axes / scale, k, start)
        back = axes * scale  # x = mean + back u
        weights, means, covariances = (torch.from_numpy(a) for a in (fit.weights_, fit.means_, fit.covariances_))
        lambdas, turns = torch.linalg.eigh(back @ covariances @ back.T + (axes * added) @ axes.T)
        lambdas = lambdas.clamp_min(FLOOR * float(variances.min()))
        base = MixtureBase(tuple(x.shape[1:]), weights, mean + means @ back.T, turns, lambdas)
        fits.append((float(base(x).mean()), base))
    return min(fits, key=lambda pair: pair[0])[1]


def _expectation_maximisation(u: Tensor, k: int, start: Mapping[str, Any]):
    """Fit scikit-learn's mixture of k Gaussians to u (n, d)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(k, **start, reg_covar=FLOOR, random_state=0).fit(u.numpy())


def _clustered(y: Tensor, u: Tensor, k: int) -> dict[str, Any]:
    """The start of EM on u (n, d) from k clusters of y (n, m): their weights, means and covariances."""
    from sklearn.cluster import KMeans

    settings: dict[str, Any] = {"n_init": 4, "random_state": 0}
    of = torch.from_numpy(KMeans(k, **settings).fit(y.numpy()).labels_).long()
    odds = nn.functional.one_hot(of, k).to(u)
    counts = odds.sum(0).clamp_min(1.0)
    means = odds.T @ u / counts[:, None]
    inner = torch.stack([(odds[:, j, None] * (u - means[j])).T @ (u - means[j]) / counts[j] for j in range(k)])
    ridge = 0.01 * torch.eye(u.shape[1]).to(u)
    precisions = torch.linalg.inv(inner + ridge)
    parts = {"weights_init": counts / counts.sum(), "means_init": means, "precisions_init": precisions}
    return {name: value.numpy() for name, value in parts.items()}


def fit_student(x: Tensor, held_out: Tensor, iterations: int = 500) -> StudentBase:
    """Fit a multivariate Student law to x (n, d) by maximum likelihood; nu between 0.5 and 200."""
    d, shape = x.shape[1], tuple(x.shape[1:])
    mean, axes, variances, added = _principal(x)
    u = (x - mean) @ axes / variances.sqrt()  # the law is fitted in these coordinates
    floor = torch.diag(added / variances + FLOOR)
    centre, scatter, nu, last = u.median(0).values, torch.eye(d).to(x), 4.0, math.inf

    for _ in range(iterations):
        q = squared_distances(u, centre, scatter)
        nu = _likeliest_nu(q, d)
        value = _student_loss(nu, q, d) + 0.5 * float(torch.logdet(scatter))
        if last - value < 1e-9:
            break
        last = value
        centre, scatter = student_step(u, q, nu)
        scatter = scatter + floor
    back = axes * variances.sqrt()
    found = back @ scatter @ back.T
    lambdas, turns = torch.linalg.eigh((found + found.T) / 2)
    lambdas = lambdas.clamp_min(FLOOR * float(variances.min()))
    return StudentBase(shape, mean + back @ centre, turns, lambdas, torch.tensor(nu).to(x))


def _student_loss(nu: float, q: Tensor, d: int) -> float:
    """The mean of -log p over rows at the squared distances q (n,), without log det S / 2."""
    log_z = math.lgamma(nu / 2) - math.lgamma((nu + d) / 2) + 0.5 * d * math.log(nu * math.pi)
    return log_z + 0.5 * (nu + d) * float(torch.log1p(q / nu).mean())


def _likeliest_nu(q: Tensor, d: int) -> float:
    """Return the nu of the least loss, between 0.5 and 200."""
    from scipy.optimize import minimize_scalar

    bounds = math.log(0.5), math.log(200.0)
    found = minimize_scalar(lambda t: _student_loss(math.exp(t), q, d), bounds=bounds, options={"xatol": 1e-8})
    return math.exp(found.x)


def fit_scales(x: Tensor, held_out: Tensor, iterations: int = 2000) -> MixtureBase:
    """Fit a mixture of SCALES Gaussians N(m, t_j S) to x (n, d), with the Student law's mean and scatter."""
    student, d = fit_student(x, held_out), x.shape[1]
    q, k = student._along(x)[1], SCALES
    order = q.sort().values
    places = (1 - 10.0 ** -torch.linspace(0.3, math.log10(max(len(q), 20)) - 0.5, k).double()) * (len(q) - 1)
    scales, weights, last = order[places.long()].clamp_min(1e-6) / d, torch.full((k,), 1 / k).to(q), -math.inf
    for _ in range(iterations):
        logits = weights.log() - 0.5 * d * scales.log() - 0.5 * q[:, None] / scales
        value = float(logits.logsumexp(1).mean())
        if value - last < 1e-7:
            break
        odds, last = logits.softmax(1), value
        weights = odds.mean(0).clamp_min(1e-12)
        scales = ((odds * q[:, None]).sum(0) / (d * odds.sum(0).clamp_min(1e-12))).clamp_min(1e-12)
    spread = scales[:, None] * student.variances
    return MixtureBase(student.shape, weights, student.mean.expand(k, d), student.axes.expand(k, d, d), spread)
