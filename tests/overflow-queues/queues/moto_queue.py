"""Starts moto, creates a queue and a user that may use it, prints both as a line of JSON, and serves until its
standard input ends.

moto checks the signatures of all requests after the first few, which create the user and the queue.
"""

import json
import os
import sys

SETUP_ACTIONS = 4
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = str(SETUP_ACTIONS)

import boto3  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
endpoint = f"http://{host}:{port}"


def client(service):
    return boto3.client(
        service,
        region_name="eu-west-1",
        endpoint_url=endpoint,
        aws_access_key_id="unused",
        aws_secret_access_key="unused",
    )


actions = ["sqs:SendMessage", "sqs:ReceiveMessage", "sqs:DeleteMessage"]
policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
iam = client("iam")
iam.create_user(UserName="envoy")
iam.put_user_policy(UserName="envoy", PolicyName="queue", PolicyDocument=json.dumps(policy))
key = iam.create_access_key(UserName="envoy")["AccessKey"]
queue = client("sqs").create_queue(QueueName="keen-edge")["QueueUrl"]
found = {"port": port, "queueUrl": queue, "accessKey": key["AccessKeyId"], "secretKey": key["SecretAccessKey"]}
print(json.dumps(found), flush=True)
sys.stdin.read()
os._exit(0)
