"""rudder-sdk-python, as an application uses it: rudder_python.py MODULE [SETTING=VALUE...]"""

import importlib
import sys

from program import edge, run, write_key

rudder_analytics = importlib.import_module(sys.argv[1])

# docs
rudder_analytics.write_key = write_key
rudder_analytics.dataPlaneUrl = edge
# /docs

run(rudder_analytics)
