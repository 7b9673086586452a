"""Statistics of numbers alone: no energy and no network."""
