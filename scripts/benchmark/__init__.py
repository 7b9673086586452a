"""The benchmark: the cost of the lab relative to a plain hand-written loop, and that of other libraries."""
