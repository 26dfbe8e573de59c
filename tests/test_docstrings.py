"""Every docstring's sections can be read by what makes the reference pages, which fail on one that cannot."""

import logging
from pathlib import Path

import griffe


def _read_all(module):
    for member in module.members.values():
        if not member.is_alias:
            if member.docstring:
                _ = member.docstring.parsed
            _read_all(member)


def test_no_docstring_has_a_section_that_cannot_be_read(tmp_path, caplog):
    """Of "Raises: See that function", nobody can tell what is raised."""
    (tmp_path / "bad.py").write_text('def given():\n    """A run.\n\n    Raises:\n        See `read_run`.\n    """\n')
    with caplog.at_level(logging.WARNING):
        _read_all(griffe.load("bad", search_paths=[tmp_path], docstring_parser="google"))
        assert [record.getMessage() for record in caplog.records if "pair from" in record.getMessage()]
        caplog.clear()
        _read_all(griffe.load("tl_crossenc", search_paths=[Path(__file__).parents[1]], docstring_parser="google"))
    assert not [record.getMessage() for record in caplog.records if "pair from" in record.getMessage()]
