"""`python -m tl_crossenc.cli`."""

import sys

from tl_crossenc.cli import main

sys.exit(main())
