"""Execute the notebooks of docs/notebooks and store their outputs.

    python scripts/notebooks.py [out=docs/notebooks] [only=first_model]

Each is executed in an empty directory of its own, so that its runs and files do not stay. What differs from one
execution to the next, such as times, is not stored.
"""

import os
import tempfile
from pathlib import Path

from ebm_lab.cli.tools import main
from ebm_lab.core.errors import UserError, one_of

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"


def notebooks(*, out: str = str(FOLDER), only: str | None = None) -> None:
    """Execute the notebooks in <out> and write them back with their outputs.

    only: the name of one notebook, without its suffix; all by default.
    """
    try:
        import nbformat  # pyright: ignore[reportMissingImports]
        from nbclient import NotebookClient  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install -e '.[notebooks]'") from None
    files = {path.stem: path for path in sorted(Path(out).glob("*.ipynb"))}
    if only is not None and only not in files:
        raise one_of("only", only, files)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # which the kernel inherits
    for name in files if only is None else [only]:
        notebook = nbformat.read(files[name], as_version=4)
        with tempfile.TemporaryDirectory() as empty:
            resources = {"metadata": {"path": empty}}
            NotebookClient(notebook, timeout=None, resources=resources, record_timing=False).execute()
        notebook.metadata["language_info"] = {"name": "python"}
        nbformat.write(notebook, files[name])
        print(files[name])


if __name__ == "__main__":
    main(notebooks)
