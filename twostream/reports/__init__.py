"""Reports of an evaluation: tables, sentences and pictures as CSV, markdown, HTML and on the terminal."""
