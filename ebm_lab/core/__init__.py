"""What every other package builds on: types, registry, mathematics. Imports nothing above it."""
