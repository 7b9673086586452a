"""The documentation site: `make docs` builds it from docs/, README.md and the components themselves."""
