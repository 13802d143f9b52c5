"""Fills a directory with what the mirror serves: build.py CONFIG DIRECTORY."""

import hashlib
import html
import html.parser
import pathlib
import shutil
import sys
import urllib.parse
import urllib.request

from config import read_config

MAX_FILES = 200
MAX_BYTES = 16 << 20
MAX_DEPTH = 3
TIMEOUT = 10
LOCAL_SOURCES = ["/usr/share/doc/*/copyright", "/usr/share/common-licenses/*"]
LOCAL_FILES = 40
LOCAL_FILE_BYTES = 256 << 10


class Links(html.parser.HTMLParser):
    """Collects what a page links to."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("href", "src") and value]


def name_of(url, source):
    """The file in which a page below the source is kept, or None if it is to be left out."""
    if not url.startswith(source):
        return None
    path = urllib.parse.unquote(urllib.parse.urlsplit(url[len(source):]).path)
    if path == "" or path.endswith("/"):
        path += "index.html"
    parts = path.split("/")
    # The other side chooses these names. One that begins with a dot is no page, and may lead out.
    if any(part == "" or part.startswith(".") or not part.isprintable() for part in parts):
        return None
    return pathlib.PurePath(*parts)


def fetch_tree(source, directory):
    """Copies a site below one URL, breadth first, within the limits above."""
    if urllib.parse.urlsplit(source).path == "":
        source += "/"
    source = source[: source.rindex("/") + 1]
    queue, seen, left = [(source, 0)], {source}, MAX_BYTES
    kept = 0
    while queue and kept < MAX_FILES:
        url, depth = queue.pop(0)
        name = name_of(url, source)
        if name is None:
            continue
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
                content = answer.read(left + 1)
                is_page = answer.headers.get_content_type() == "text/html"
        except OSError as error:
            if depth == 0:
                sys.exit(f"{url}: {error}")
            print(f"left out {url}: {error}")
            continue
        if len(content) > left:
            print(f"left out {url}: more than {MAX_BYTES} bytes in all")
            continue
        file = directory / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            print(f"left out {url}: it would be a file and a directory at once")
            continue
        left -= len(content)
        kept += 1
        if is_page and depth < MAX_DEPTH:
            for link in Links(content.decode(errors="replace")).found:
                link = urllib.parse.urldefrag(urllib.parse.urljoin(url, link)).url
                if link not in seen and link.startswith(source):
                    seen.add(link)
                    queue.append((link, depth + 1))


def local_tree(directory):
    """Something worth serving from every Unix system: who holds the rights in its software."""
    names = []
    for pattern in LOCAL_SOURCES:
        for path in sorted(pathlib.Path("/").glob(pattern[1:])):
            if len(names) == LOCAL_FILES:
                break
            try:
                if not path.is_file() or path.stat().st_size > LOCAL_FILE_BYTES:
                    continue
                content = path.read_bytes()
            except OSError:
                continue
            name = (path.parent.name if path.name == "copyright" else path.name) + ".txt"
            if name not in names:
                (directory / name).write_bytes(content)
                names.append(name)
    items = "".join(f'<li><a href="{html.escape(name)}">{html.escape(name)}</a>\n' for name in names)
    page = f"<!doctype html>\n<title>Mirror</title>\n<h1>{len(names)} documents</h1>\n<ul>\n{items}</ul>\n"
    (directory / "index.html").write_text(page)


def main(config, directory):
    directory = pathlib.Path(directory)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    source = read_config(config).get("source")
    if source:
        fetch_tree(source, directory)
    else:
        local_tree(directory)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    with open(directory / "MANIFEST.sha256", "w") as manifest:
        for path in files:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            print(f"{digest}  {path.relative_to(directory)}", file=manifest)
    print(f"{len(files)} files")


if __name__ == "__main__":
    main(*sys.argv[1:])
