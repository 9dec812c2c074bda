"""What a pull request to verl-recipe would contain, written from this repository: ``make upstream OUT=…``.

__main__.py       which files go where, and the command
text.py           what changes in them: places, imports, links, licence header
egrsd-tests.yml   the workflow that runs the fast tests there
"""
