"""The command `featcomp`: one module a sub-command. Nothing heavy is imported before arguments are read.

A module's first line is what `featcomp --help` tells, its whole docstring what `featcomp NAME --help`
does. `add_arguments(parser)` declares its options, `run(args)` does the work and may return the exit
status; `TAKES_IMPORTS = False` leaves out the option --import.
"""

from .program import COMMANDS, main, run_command, run_tool
