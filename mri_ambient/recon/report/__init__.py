"""Pages and lines for people: the report of a reconstruction, and the overview of a folder.

Public: ``ReportWriter`` (writer); ``write_overview``, ``add_row`` (overview); ``summary_line``,
``slice_lines`` (lines).
"""

from .lines import slice_lines, summary_line
from .overview import add_row, write_overview
from .writer import ReportWriter

__all__ = ["ReportWriter", "add_row", "slice_lines", "summary_line", "write_overview"]
