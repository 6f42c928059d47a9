"""The command line: spellings, printing, progress, exit codes. One file per verb."""
