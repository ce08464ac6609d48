import ast
from itertools import islice

import pytest
from python_functions import functions

SOURCE = '''
def outer():
    def inner():
        return 1
    return inner

class A:
    class B:
        async def method(self):
            """Ünï\u2028cöde."""

    if True:
        @property
        def decorated(self): return 2

def outer():
    def inner():
        return 1
    return inner
'''


def test_functions_of_a_folder_come_once_in_sequence_without_their_indentation(tmp_path):
    for folder in ("b", "tests", "site-packages"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.py").write_text("def f():\n    return 0\n", encoding="utf-8")
    (tmp_path / "a.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "broken.py").write_text("def f(:\n", encoding="utf-8")
    (tmp_path / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\ndef f(): '\xe4'\n")

    found = functions(tmp_path)

    assert found == [
        "def outer():\n    def inner():\n        return 1\n    return inner",
        'async def method(self):\n    """Ünï\u2028cöde."""',
        "def decorated(self): return 2",
        "def f():\n    return 0",
    ]


@pytest.mark.slow
def test_the_standard_library_has_thousands_of_functions_always_the_same(library):
    assert len(library) == len(set(library)) > 8_000
    assert library == functions()
    for text in islice(library, 0, None, 100):
        # A string that goes to the left of its function keeps the function where it was.
        whole = f"if True:\n{text}" if text.startswith(" ") else text
        node = ast.parse(whole).body[0]
        if isinstance(node, ast.If):
            (node,) = node.body
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
