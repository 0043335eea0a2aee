"""Sums of the log by hour, day and month, so that pages and statistics don't read the log itself."""
