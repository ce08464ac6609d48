"""Reading a page as a browser would, without one."""

import json
import re
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "link"}


class Reader(HTMLParser):
    """Collects what a page would fetch, its text and tables, and whether elements are closed."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.text, self.tags, self.told = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            outside = value is not None and re.match(r"(https?:)?//", value)
            if outside and not name.startswith("xmlns"):
                self.fetched.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"script", "style"}:
            self.text.append(data)
        if self.open and self.open[-1] in {"td", "li"}:
            self.told.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def facts_of(html):
    return json.loads(re.search(r'id="facts">(.*?)</script>', html, re.DOTALL)[1])
