"""segment-analytics-python, as an application uses it: analytics_python.py MODULE [SETTING=VALUE...]"""

import importlib
import sys

from program import edge, run, write_key

analytics = importlib.import_module(sys.argv[1])

# docs
analytics.write_key = write_key
analytics.host = edge
# /docs

run(analytics)
