"""Which direction of a metric is good, by the names that evaluations give."""

LOWER = ("nll", "nll_gap", "flow_nll", "flow_nll_gap", "mmd2", "feature_fid", "feature_kid", "loss")
HIGHER = ("confident_share", "classes_found", "class_entropy")
