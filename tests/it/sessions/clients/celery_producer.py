"""Gives celery work to do."""

from harness import work
from tasks import append

work(append.delay)
