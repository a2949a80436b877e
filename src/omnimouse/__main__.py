"""`python -m omnimouse`, for where the command `omnimouse` is not on the path."""

import sys

from omnimouse.cli.main import main

sys.exit(main())
