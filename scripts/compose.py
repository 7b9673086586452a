"""Compose the energies of runs: python scripts/compose.py runs=[<dir>,<dir>] op=product weights=[1,1] n=64 ..."""

from ebm_lab.cli.commands import compose

if __name__ == "__main__":
    compose()
