"""Links of the site to the rest of the repository.

A page of `docs/` links to a file of the repository by its relative path, such as
`../results/README.md`. So the link works where the Markdown itself is read, too. The
site has a copy of each such file below `repository/`.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?!https?:|#)[^)\s#]+")


def on_files(files, config):
    """Adds the files of the repository that pages link to, and those they link to."""
    pages = [f"docs/{page.src_uri}" for page in files.documentation_pages()]
    for page in pages:  # It grows.
        for link in LINK.findall((ROOT / page).read_text("utf-8")):
            path = _path(page, link)
            place = _place(path)
            if not (ROOT / path).is_file() or place in files.src_uris:
                continue
            files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
            if path.endswith(".md"):
                pages.append(path)
    return files


def on_page_markdown(markdown, page, config, files):
    """Points the links of a page to the places of files in the site."""
    place = page.file.src_uri
    path = place.removeprefix("repository/")
    if path == place:
        path = f"docs/{place}"

    def moved(match):
        target = _place(_path(path, match[0]))
        if target not in files.src_uris:
            return match[0]
        return posixpath.relpath(target, posixpath.dirname(place) or ".")

    return LINK.sub(moved, markdown)


def _path(page, link):
    """The path in the repository of what a page links to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _place(path):
    """The place in the site of a file of the repository."""
    inside = path.removeprefix("docs/")
    return f"repository/{path}" if inside == path else inside
