"""Pages for people: the report of a reconstruction, and the overview of a folder.

Public: ``ReportWriter`` (writer).
"""

from .writer import ReportWriter

__all__ = ["ReportWriter"]
