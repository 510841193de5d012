"""Several runs beside each other: tables, paired tests, fusions of their probabilities, a report."""
