"""`twostream-data`, and what every command says about data that are not whole."""

import warnings

from twostream.cli.errors import run_command
from twostream.errors import DataWarning


def test_what_a_person_should_know_of_the_data_is_one_line_on_standard_error(capsys):
    def command():
        for name in ("a", "a\nb"):
            warnings.warn(f"no {name}", DataWarning, stacklevel=1)
        return 0

    before = warnings.showwarning
    assert run_command("twostream-train", command) == 0
    output = capsys.readouterr()
    assert output.err == "twostream-train: warning: no a\ntwostream-train: warning: no a b\n"
    assert output.out == ""
    assert warnings.showwarning is before
