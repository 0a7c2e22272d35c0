"""A report of runs: one HTML file from what they left in their OUTPUT_DIR."""
