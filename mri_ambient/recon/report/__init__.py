"""Pages for people: the report of a reconstruction, and the overview of a folder.

Public: ``ReportWriter`` (writer); ``write_overview``, ``add_row`` (overview).
"""

from .overview import add_row, write_overview
from .writer import ReportWriter

__all__ = ["ReportWriter", "add_row", "write_overview"]
