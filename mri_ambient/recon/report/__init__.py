"""Pages for people: the report of a reconstruction, and the overview of a folder.

Public: ``ReportWriter`` (writer); ``write_overview``, ``noted_failure`` (overview).
"""

from .overview import noted_failure, write_overview
from .writer import ReportWriter

__all__ = ["ReportWriter", "noted_failure", "write_overview"]
