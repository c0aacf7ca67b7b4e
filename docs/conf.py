"""How the documentation site is built: ``python -m sphinx -W -n docs OUT``."""

import tomllib
from pathlib import Path

import xacct_lambda

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]["name"]
release = version = xacct_lambda.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.intersphinx"]
exclude_patterns = ["**/.*"]  # what tests and builds leave behind in examples/
html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False

# GitHub's slugs, so that a link to a heading works there and here.
myst_heading_anchors = 4

autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
# One argument a line: signatures of twenty arguments are read on phones.
maximum_signature_line_length = 80

# Types that signatures name and no page explains: private ones, whose options are those of assumed_session.
nitpick_ignore_regex = [("py:class", r"xacct_lambda\._.*"), ("py:class", r"xacct_lambda\.testing\._.*")]

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
