"""How the documentation site is built: ``python -m sphinx -W -n docs OUT``."""

import inspect
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
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


def setup(app: Sphinx) -> None:
    """Show each function by one signature with public names, and each picture in full. Leave out comments."""
    app.connect("doctree-read", _remove_comments)
    app.connect("doctree-resolved", _open_when_clicked)
    app.connect("autodoc-process-signature", _show_public_names)
    # Overloads tell type checkers what return_exceptions means; the function's own signature has all arguments.
    analyzer = ModuleAnalyzer.for_module("xacct_lambda._fan_out")
    analyzer.analyze()
    analyzer.overloads.clear()
