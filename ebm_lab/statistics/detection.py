"""How well a score separates two sets of points: AUROC, average precision, false positives at 95 %.

    AUROC = P(score of an insider > score of an outsider) + 1/2 P(equal)
    AUPR  = sum_k (recall_k - recall_(k-1)) precision_k over thresholds, precision = TPR / (TPR + FPR)
    FPR95 = share of outsiders at or above the highest threshold that at least 95 % of the insiders reach

Insiders are the positives. Precision is computed as for equally many insiders and outsiders, whatever the sets' sizes,
so that a constant score has AUPR 0.5. Intervals are percentiles of the bootstrap over points, resampled from each set:
they hold for the scores of one trained model.
"""

import torch
from torch import Generator, Tensor


def labelled(inside: Tensor, outside: Tensor) -> tuple:
    """Return (labels, ranks of the scores) for scikit-learn, with label 1 for insiders. Equal scores have equal ranks,
    and infinite ones count too."""
    label = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))])
    return label.numpy(), torch.unique(torch.cat([inside, outside]), return_inverse=True)[1].numpy()


def detection(inside: Tensor, outside: Tensor) -> tuple[float, float, float]:
    """Compute AUROC, AUPR and FPR95 of scores (n,) and (m,)."""
    import numpy as np
    from sklearn.metrics import auc, average_precision_score, roc_curve

    label, score = labelled(inside, outside)
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    passing = int((tpr >= 0.95 - 1e-9).argmax())
    aupr = average_precision_score(label, score, sample_weight=np.where(label == 1, 1 / len(inside), 1 / len(outside)))
    return float(auc(fpr, tpr)), float(aupr), float(fpr[passing])


def numbers(tpr: Tensor, fpr: Tensor) -> Tensor:
    """Compute AUROC, AUPR and FPR95 from rates at falling thresholds, (..., U) -> (..., 3)."""
    before = [torch.nn.functional.pad(rate, (1, -1)) for rate in (tpr, fpr)]
    auroc = ((fpr - before[1]) * (tpr + before[0]) / 2).sum(-1)
    aupr = ((tpr - before[0]) * tpr / (tpr + fpr).clamp_min(1e-300)).sum(-1)
    passing = (tpr >= 0.95 - 1e-9).int().argmax(-1, keepdim=True)
    return torch.stack([auroc, aupr, fpr.gather(-1, passing)[..., 0]], -1)


def intervals(inside: Tensor, outside: Tensor, resamples: int, generator: Generator) -> Tensor:
    """Compute 95 % intervals of `detection`, (3, 2)."""
    places = torch.unique(-torch.cat([inside, outside]), return_inverse=True)[1].split([len(inside), len(outside)])
    rates = []
    for place in places:
        drawn = torch.randint(len(place), (resamples, len(place)), generator=generator, device=generator.device).cpu()
        counts = torch.zeros(resamples, int(max(p.max() for p in places)) + 1, dtype=torch.float64)
        rates.append(counts.scatter_add_(1, place[drawn], torch.ones(drawn.shape).double()).cumsum(1) / len(place))
    return numbers(*rates).quantile(torch.tensor([0.025, 0.975]).double(), dim=0).T
