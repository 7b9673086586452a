"""Energies: E(x) in nats, (B, *shape) -> (B,)."""
