"""Networks, and what models of many noise levels share."""
