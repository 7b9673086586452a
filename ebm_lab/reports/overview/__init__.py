"""One static page over many runs: no server, no account."""
