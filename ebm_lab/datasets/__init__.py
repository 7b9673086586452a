"""Data sets: three splits each, and the exact log-density where it is known."""
