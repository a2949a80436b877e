"""What the commands of the shell do; `cli/parser.py` names them. Each module is imported when a command of it runs."""
