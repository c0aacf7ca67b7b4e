"""How the documentation site is built: ``python -m sphinx -W -n docs OUT``."""

import inspect
import os
import re
import tomllib
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.osutil import relative_uri
from sphinx.util.typing import stringify_annotation

import xacct_lambda
from xacct_lambda._options import AssumeRoleOptions

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]["name"]
release = version = xacct_lambda.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
]
exclude_patterns = ["**/.*"]  # what tests and builds leave behind in examples/
html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
# The default for dark mode underlines names of modules like links.
pygments_dark_style = "a11y-high-contrast-dark"
html_copy_source = False
html_show_copyright = False
html_use_index = html_domain_indices = False

# GitHub Actions sets these. Furo then links each page to its source and to the editor, for repositories on github.com.
if os.environ.get("GITHUB_SERVER_URL") == "https://github.com":
    html_theme_options = {
        "source_repository": f"https://github.com/{os.environ['GITHUB_REPOSITORY']}/",
        "source_branch": "main",
        "source_directory": "docs/",
    }

# The copy button copies what you type: without prompts, and without the output below a command.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"
# Blocks of text show messages and output.
copybutton_selector = "div:not(.highlight-text) > div.highlight > pre"

# GitHub's slugs, so that a link to a heading works there and here.
myst_heading_anchors = 4

autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
# One argument a line: signatures of twenty arguments are read on phones.
maximum_signature_line_length = 80

# Behind each address stands a copy of the few names that are used here, for builds without a network.
intersphinx_mapping = {
    name: (address, (None, f"inventories/{name}.txt"))
    for name, address in {
        "python": "https://docs.python.org/3",
        "boto3": "https://boto3.amazonaws.com/v1/documentation/api/latest",
        "botocore": "https://botocore.amazonaws.com/v1/documentation/api/latest",
    }.items()
}
intersphinx_timeout = 5

_CALLABLE = "collections.abc.Callable"


def _options() -> str:
    """Return the options of ``@assume_role`` and of the loops: those of ``assumed_session``, most also as callables."""
    parameters = inspect.signature(inspect.unwrap(xacct_lambda.assumed_session), eval_str=True).parameters
    options = []
    for name, annotation in AssumeRoleOptions.__annotations__.items():
        types = stringify_annotation(parameters[name].annotation, "smart")
        if "PerEvent" in annotation.__forward_arg__:
            types += f" | {_CALLABLE}"
        options.append(f"{name}: {types} = {parameters[name].default!r}")
    return ", ".join(options)


# Signatures show public types instead of private ones, and the names of all options.
REPLACEMENTS = {
    r"~?xacct_lambda\._decorator\._Decorator": f"{_CALLABLE}[[{_CALLABLE}], {_CALLABLE}]",
    r"~?xacct_lambda\.testing\._isolation\.IsolatedCache": "contextlib.AbstractContextManager[None]",
    r"\*\*options: ~?typing\.Unpack\[~?xacct_lambda\._options\.AssumeRoleOptions\]": _options(),
    r"\b_context\b": "context",
}


def _show_public_names(_app: Sphinx, *described: Any) -> tuple[str | None, str | None]:
    *_, arguments, returned = described
    for pattern, replacement in REPLACEMENTS.items():
        arguments, returned = (text and re.sub(pattern, replacement, text) for text in (arguments, returned))
    return arguments, returned


def _open_when_clicked(app: Sphinx, document: nodes.document, page: str) -> None:
    """Link each picture to its file: on a phone it is too small to be read in the text."""
    if app.builder.format != "html":
        return
    for image in list(document.findall(nodes.image)):
        file = f"_images/{app.env.images[image['uri']][1]}"
        address = relative_uri(app.builder.get_target_uri(page), file)
        image.replace_self(nodes.reference("", "", image.copy(), refuri=address, internal=True))


def _remove_comments(_app: Sphinx, document: nodes.document) -> None:
    """Leave out HTML comments: tests of a page's examples, and notes for maintainers."""
    for raw in list(document.findall(nodes.raw)):
        if raw.astext().startswith("<!--"):
            raw.parent.remove(raw)


def _name_repository(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Write the real name of the repository into commands."""
    source[0] = source[0].replace("OWNER/REPOSITORY", os.environ.get("GITHUB_REPOSITORY", "OWNER/REPOSITORY"))


EXAMPLES = {path.name: path for path in (Path(__file__).parent / "examples").iterdir() if path.is_dir()}


def _link_archives(app: Sphinx, document: nodes.document) -> None:
    """Turn each link to the folder of an example into a link to its archive. A repository shows the folder."""
    page = app.env.docname
    for link in list(document.findall(pending_xref)):
        folder = os.path.normpath(PurePosixPath(page).parent / link["reftarget"])
        name = PurePosixPath(folder).name
        if app.builder.format == "html" and folder == f"examples/{name}" and name in EXAMPLES:
            address = relative_uri(app.builder.get_target_uri(page), f"_downloads/{name}.zip")
            link.replace_self(nodes.reference("", "", *link.children, refuri=address, internal=True))


def _write_archives(app: Sphinx, failure: Exception | None) -> None:
    """Write the files of each example into an archive, without what tests and builds leave behind."""
    if failure or app.builder.format != "html":
        return
    for name, folder in EXAMPLES.items():
        archive = app.outdir / "_downloads" / f"{name}.zip"
        archive.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                inside = file.relative_to(folder.parent)
                if not re.search(r"(^|/)(\.|__pycache__/)|\.zip$", inside.as_posix()):
                    # Without the time of the file, two builds of one commit have the same bytes.
                    opened.writestr(zipfile.ZipInfo(inside.as_posix()), file.read_bytes(), zipfile.ZIP_DEFLATED)


def setup(app: Sphinx) -> None:
    """Show functions by one signature with public names, pictures in full, examples as archives, and no comments."""
    app.connect("doctree-read", _remove_comments)
    app.connect("source-read", _name_repository)
    app.connect("doctree-read", _link_archives)
    app.connect("build-finished", _write_archives)
    app.connect("doctree-resolved", _open_when_clicked)
    app.connect("autodoc-process-signature", _show_public_names)
    # Overloads tell type checkers what return_exceptions means; the function's own signature has all arguments.
    analyzer = ModuleAnalyzer.for_module("xacct_lambda._fan_out")
    analyzer.analyze()
    analyzer.overloads.clear()
