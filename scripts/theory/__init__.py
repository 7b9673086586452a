"""Identities that connect the objectives, each computed by the objectives' own functions."""
