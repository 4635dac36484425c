"""Writes the first inputs of the fuzz targets, from the recorded requests, the reference cases and Keen's replies.

python3 fuzz/seeds.py CORPUS
"""

import json
import pathlib
import sys

root = pathlib.Path(__file__).resolve().parent.parent
corpus = pathlib.Path(sys.argv[1])
count = 0


def seed(target, data):
    global count
    count += 1
    place = corpus / target
    place.mkdir(parents=True, exist_ok=True)
    (place / f"seed-{count}").write_bytes(data)


# The order of PATHS in fuzz_targets/request.rs, by the last part of the path; others are read as a batch.
PATHS = {"batch": 0, "track": 1, "t": 1, "page": 2, "p": 2, "screen": 3, "s": 3, "identify": 4, "i": 4, "group": 5, "g": 5, "alias": 6, "a": 6}


def request(path, body, key=0, agent=0):
    kind = PATHS.get(path.rstrip("/").split("/")[-1], 0)
    seed("request", bytes([kind, key, agent, 0]) + body)


for line in (root / "tests/golden/mapping.jsonl").read_text().splitlines():
    case = json.loads(line)
    body = case["request"].get("body")
    text = body if isinstance(body, str) else json.dumps(body)
    request(case["request"]["path"], text.encode())
    settings = {key: value for key, value in case["settings"].items()}
    seed("config", json.dumps({"keen": {"cluster": "keen"}, "sources": {"k": settings}}).encode())

for file in sorted((root / "tests/captures").glob("*.json")):
    for recorded in json.loads(file.read_text()):
        body = recorded.get("body_text") if isinstance(recorded, dict) else None
        if body:
            request(recorded["path"], body.encode(), key=1)

seed("config", b'{"keen": {"cluster": "keen", "authority": "a", "timeoutMs": 1}, "sources": {"k": {"projectId": '
     b'"5181bcd23843312d87000000", "writeKey": "ABCDEF0123456789ABCDEF0123456789", "name": "n", "cluster": "c"}}, '
     b'"unknownSource": "reject", "intercept": "forward", "delivery": {"ack": "accepted", "holdMs": 1, "retries": 0, '
     b'"maxInFlight": 1, "maxBatchEvents": 1, "maxBatchBytes": 1, "maxPendingBytes": 1}, "limits": {"bodyBytes": 1, "messages": 1}, '
     b'"pathPrefix": "/p", "overflow": {"cluster": "q", "authority": "q", "queueUrl": "http://q/q", "afterMs": 1, '
     b'"maxMessageBytes": 1024, "drain": false, "misconfigured": "reject"}, "users": {"max": 1, "maxBytes": 1, "expireMs": 1}, '
     b'"cors": {"allowOrigins": ["*"]}, "settings": {"apiHost": "a/v1"}}')
# google.protobuf.Struct {"keen": {"cluster": "k"}} in its wire form.
def field(number, data):
    return bytes([number << 3 | 2, len(data)]) + data


def struct(key, value):
    return field(1, field(1, key) + field(2, value))


seed("config", struct(b"keen", field(5, struct(b"cluster", field(3, b"k")))))

for reply in (
    b'{"Purchased": [{"success": true}]}',
    b'{"a": [{"success": true}, {"success": false, "error": {"name": "InvalidEventError", "description": "x"}}], "b": [{"success": true}]}',
    b'{"message": "Resource not found.", "error_code": "ResourceNotFoundError"}',
):
    for which in range(4):
        for status in (200, 400, 503):
            seed("reply", bytes([which, status & 255, status >> 8]) + reply)
for file in sorted((root / "mock-keen/tests/replies").glob("*.json")):
    seed("reply", bytes([0, 200, 0]) + file.read_bytes())

seed("delivery", bytes(range(256)) * 4)
seed("delivery", bytes([3, 3, 19, 100, 100, 100, 0, 1] + [0, 1, 3, 0, 0, 9, 1, 1, 9, 2, 2, 9, 100, 0, 0] * 40))
seed("delivery", bytes([3, 1, 3, 20, 100, 100, 1, 1] + [0, 0, 3, 0, 0, 9, 0, 1, 9, 0, 2, 9, 100, 0, 170, 210, 90] * 40))
print(f"{count} seeds in {corpus}")
