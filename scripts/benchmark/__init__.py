"""The benchmark: what the lab costs beside a plain hand-written loop and beside other libraries, as ratios."""
