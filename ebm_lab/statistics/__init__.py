"""Statistics of plain tensors, without energies or networks."""
