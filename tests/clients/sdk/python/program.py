"""What the programs of this directory share: their calls, and the report."""

import datetime
import json
import logging
import os
import sys

edge, write_key = os.environ["EDGE"], os.environ["WRITE_KEY"]
errors = []
logging.basicConfig(stream=sys.stderr, level=logging.WARNING)


def run(analytics):
    """Makes one call of each type and more tracks, waits for the SDK, and prints the report."""
    analytics.on_error = lambda error, items: errors.append(repr(error))
    for setting in sys.argv[2:]:
        name, value = setting.split("=")
        setattr(analytics, name, json.loads(value))

    analytics.identify("u-1", {"plan": "pro"})
    analytics.track(
        "u-1",
        "Order Completed",
        {"item": "T-Shirt", "revenue": 19.99, "sizes": [1, 2], "buyer": {"name": "é😀"}},
        context={"ip": "24.5.68.47"},
    )
    analytics.track("u-1", "Elsewhere", integrations={"All": True, "Keen IO": False})
    analytics.track(
        anonymous_id="a-1",
        event="Old Event",
        timestamp=datetime.datetime(2012, 12, 2, 0, 30, 12, 984000, tzinfo=datetime.timezone.utc),
    )
    analytics.page("u-1", "Docs", "Index", {"url": "https://example.com/docs"})
    analytics.screen("u-1", None, "Main")
    analytics.group("u-1", "g-1", {"name": "Initech"})
    analytics.alias("a-1", "u-1")
    # flush returns when each message was sent or passed to on_error.
    analytics.flush()
    print(json.dumps({"delivered": 0 if errors else 8, "errors": errors}))
