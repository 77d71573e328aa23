"""`python -m recsys_tasks VERB`."""

from recsys_tasks.cli import main

raise SystemExit(main())
