"""A plugin of pytest: with ``-p collected`` each collected test is a line of JSON: file, what -k sees, what -m sees."""

import json

from _pytest.mark import KeywordMatcher


def pytest_collection_finish(session):
    for item in session.items:
        marks = sorted({mark.name for mark in item.iter_markers()})
        names = sorted(KeywordMatcher.from_item(item)._names)
        print("collected", json.dumps([str(item.path.relative_to(session.config.rootpath)), names, marks]))
