"""What ties the methods together: identities between objectives, each computed by the objectives' own functions."""
