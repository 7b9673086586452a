"""Fits of the maps that bring data to coordinates in which a model learns easily: axes of unit scale, and warps.

    symmetric axes    W = C^(-1/2) S^-1, C the correlations, S the standard deviations
    principal axes    W = D^(-1/2) V', V the eigenvectors of the covariance (or of a robust scatter), D the variances
                      of the training data along them
    warp              x = s asinh((raw - median) / s) per axis: s maximises the likelihood of a Gaussian fitted to x,
                      -1/2 log var x - mean log cosh(x / s), over 1e-3 to 1e4 robust standard deviations

The robust scatter is the maximum-likelihood one of a multivariate Student-t of DOF degrees of freedom, by EM with an
expanded parameter: its fixed point is that of plain EM, where the mean weight is 1, and it gets there in some ten steps
where plain EM takes hundreds in many dimensions.
w_i = (DOF + d) / (DOF + (x_i - m)' S^-1 (x_i - m)),
m = sum w_i x_i / sum w_i,    S = sum w_i (x_i - m)(x_i - m)' / sum w_i.

Kenneth Lange, Roderick Little and Jeremy Taylor, Robust Statistical Modeling Using the t Distribution, JASA 84, 1989.
Chuanhai Liu, Donald Rubin and Ying Nian Wu, Parameter Expansion to Accelerate EM: the PX-EM Algorithm, Biometrika 85,
1998.
Agnan Kessy, Alex Lewin and Korbinian Strimmer, Optimal Whitening and Decorrelation, 2018, arXiv:1512.00809.
"""

import math

import torch
from torch import Tensor

from ebm_lab.core.errors import UserError
from ebm_lab.core.maps import Linear, Warp
from ebm_lab.core.random import subset
from ebm_lab.core.transforms import Affine

DOF = 3.0
"""Degrees of freedom of the robust scatter."""
SCALES = (-3.0, 4.0)
"""log10 of the least and the largest scale of a warp, in robust standard deviations."""
GAIN = 0.005
"""Nats per point, beside two standard errors, by which the warp of an axis must better its likelihood."""
ROWS, COARSE = 10_000, 2000
"""Rows that a warp or a robust scatter is fitted to, at most; and rows of a first search."""
NO_SPREAD = "preprocessing 'whiten': a direction has no spread; drop coordinates that others determine"


def symmetric(affine: Affine, train: Tensor) -> Linear:
    """Fit the symmetric axes; affine: the standardising map of train (n, *shape). Scales of different size in different
    coordinates cost no digits."""
    value, vector = _correlations(affine, train)
    return Linear(affine.shift, vector * value.rsqrt() @ vector.mT / affine.scale.flatten())


def _correlations(affine: Affine, train: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues (d,), none of them zero, and eigenvectors (d, d) of the correlations."""
    z = affine.forward(train).flatten(1)
    value, vector = torch.linalg.eigh(z.mT @ z / (len(z) - 1))
    if float(value[0]) < 1e-10 * float(value[-1]):
        raise UserError(NO_SPREAD)
    return value, vector


def principal(affine: Affine, train: Tensor) -> Linear:
    """Fit the principal axes of the covariance of train (n, *shape)."""
    _correlations(affine, train)
    centred = (train - affine.shift).flatten(1)
    return _along(torch.linalg.eigh(centred.mT @ centred / (len(centred) - 1)).eigenvectors, affine.shift, centred)


def robust(affine: Affine, train: Tensor) -> Linear:
    """Fit the principal axes of the robust scatter of train (n, *shape)."""
    _correlations(affine, train)
    scale = affine.scale.flatten()
    try:
        scatter = student_scatter(subset(affine.forward(train).flatten(1), ROWS)) * scale * scale[:, None]
    except torch.linalg.LinAlgError:  # most rows alike
        raise UserError(NO_SPREAD) from None
    return _along(torch.linalg.eigh(scatter).eigenvectors, affine.shift, (train - affine.shift).flatten(1))


def _along(vector: Tensor, shift: Tensor, centred: Tensor) -> Linear:
    std = (centred @ vector).std(0)
    if not bool((std > 0).all()):
        raise UserError(NO_SPREAD)
    return Linear(shift, vector.mT / std[:, None])


def student_scatter(z: Tensor, dof: float = DOF) -> Tensor:
    """The scatter (d, d) of a Student-t fitted to z (n, d) by EM, to a relative 1e-6."""
    middle, scatter = z.median(0).values, z.mT @ z / len(z)
    for _ in range(200):
        middle, new = student_step(z, squared_distances(z, middle, scatter), dof)
        done = float((new - scatter).norm()) < 1e-6 * float(scatter.norm())
        scatter = new
        if done:
            break
    return scatter


def squared_distances(z: Tensor, middle: Tensor, scatter: Tensor) -> Tensor:
    """Return q_i = (z_i - m)' S^-1 (z_i - m), (n,), for z (n, d), m (d,) and S (d, d)."""
    root = torch.linalg.cholesky(scatter)
    return torch.linalg.solve_triangular(root, (z - middle).mT, upper=False).square().sum(0)


def student_step(z: Tensor, q: Tensor, dof: float) -> tuple[Tensor, Tensor]:
    """Take one step of EM for a Student-t on z (n, d): the next m (d,) and S (d, d), from the squared distances q."""
    w = (dof + z.shape[1]) / (dof + q)
    middle = w @ z / w.sum()
    u = z - middle
    return middle, (w[:, None] * u).mT @ u / w.sum()


def warp(train: Tensor) -> Warp:
    """Fit the warp of each coordinate of train (n, *shape); a coordinate that gains too little by one gets none."""
    z = subset(train.flatten(1), ROWS)
    centre = z.median(0).values
    low, high = torch.quantile(z, torch.tensor([0.25, 0.75], dtype=z.dtype), 0)
    unit = torch.where(high > low, (high - low) / 1.349, z.std(0))
    s = warp_scale((z - centre) / unit) * unit
    return Warp(train.median(0).values, s.view(train.shape[1:]))


def warp_scale(u: Tensor) -> Tensor:
    """The scale s (d,) of the best warp of each column of u (n, d) about zero; inf for none."""
    steps, few = torch.linspace(*SCALES, 29, dtype=u.dtype), u[:COARSE]
    found = torch.stack([_likelihood(few, (10**step).expand(u.shape[1])).mean(0) for step in steps])
    s, index = torch.full_like(u[0], torch.inf), found.max(0).indices
    gain = _likelihood(few, 10 ** steps[index]) - _plain(few)
    worth = gain.mean(0) + 4 * gain.std(0) / math.sqrt(len(few)) > GAIN / 2  # else it will not be enough below
    if not bool(worth.any()):
        return s
    u, width = u[:, worth], float(steps[1] - steps[0])
    low, high = steps[index[worth]] - width, steps[index[worth]] + width
    for _ in range(15):  # golden section, to less than a thousandth of a decade
        a, b = high - 0.6180339887 * (high - low), low + 0.6180339887 * (high - low)
        left = _likelihood(u, 10**a).mean(0) > _likelihood(u, 10**b).mean(0)
        low, high = torch.where(left, low, a), torch.where(left, b, high)
    own = 10 ** ((low + high) / 2)
    gain = _likelihood(u, own) - _plain(u)
    enough = gain.mean(0) > (2 * gain.std(0) / math.sqrt(len(u))).clamp_min(GAIN)
    s[worth] = torch.where(enough, own, torch.inf)
    return s


def _likelihood(u: Tensor, s: Tensor) -> Tensor:
    """Each entry's log-likelihood, (n, d), up to a constant, under a Gaussian of the warped column."""
    t = u / s
    return _plain(torch.asinh(t)) - 0.5 * torch.log1p(t * t) - s.log()


def _plain(y: Tensor) -> Tensor:
    """The same under a Gaussian of the column itself."""
    variance = y.var(0, correction=0)
    return -0.5 * ((y - y.mean(0)).square() / variance + variance.log())
