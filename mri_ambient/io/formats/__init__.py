"""Files and arrays that hold scans, one module a format, and what several formats share."""
