"""Hooks of mkdocs: add the pages that are not files in docs/, and list them in the navigation."""

import functools
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig  # pyright: ignore[reportMissingImports]
from mkdocs.structure.files import File, Files  # pyright: ignore[reportMissingImports]
from mkdocs.structure.pages import Page  # pyright: ignore[reportMissingImports]

from scripts.docs_site.components import GROUPS, ROOT, pages

OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
"""Pages of the project's root; README.md is the site's home."""
COMPONENTS = "components"
"""The place in the navigation of mkdocs.yml where the component pages go."""
WORKER, STYLE = "frame_worker.js", "style.css"
"""Files beside this one. The first lets the search work in pages that are opened as files; the theme would take such a
script from the network."""
written = functools.cache(pages)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a list of the component pages in their place in the navigation."""
    found = [{title: [p for p in written() if Path(p).parts[0] == group]} for group, (title, _) in GROUPS.items()]
    items = [item for entry in config.nav or [] for item in entry.items()]
    config.nav = [{title: found if target == COMPONENTS else target} for title, target in items]
    config.extra["polyfills"], config.extra_css = [f"assets/{WORKER}"], [f"assets/{STYLE}"]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the project's root, those of the components, and the files beside this one."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    for path, content in written().items():
        files.append(File.generated(config, path, content=content))
    for name in (WORKER, STYLE):
        files.append(File.generated(config, f"assets/{name}", abs_src_path=str(Path(__file__).parent / name)))
    return files


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """Rewrite links from the project's root to docs/, and from docs/ to the root, which the site puts in one place."""
    if page.file.src_uri in OUTSIDE:
        return re.sub(r"\]\(docs/", "](", markdown)
    return re.sub(rf"\]\(\.\./({'|'.join(map(re.escape, OUTSIDE))})", r"](\1", markdown)
