"""Scripts of pages are run as scripts: doctests have no need to import them."""

collect_ignore = ["scripts"]
