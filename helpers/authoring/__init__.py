"""What the authors of the workbook use: set-up, locks, an offline run, refreshed notebooks."""
