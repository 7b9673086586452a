"""An overview of many runs as one static page, which needs no server and no account."""
