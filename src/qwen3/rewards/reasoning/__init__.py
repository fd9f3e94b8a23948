"""Generated puzzles with exact graders, and programs to mend or to run by hand."""
