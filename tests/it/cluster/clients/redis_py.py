"""redis-py's cluster client: HOST PORT PROTOCOL, and TLS where CA_FILE names an authority."""

import os
import sys

import redis
from redis.cluster import LoadBalancingStrategy

from harness import check, work

host, port, protocol = sys.argv[1:]
ca = os.environ.get("CA_FILE")
options = {
    "host": host,
    "port": int(port),
    "protocol": int(protocol),
    "decode_responses": True,
    **({"ssl": True, "ssl_ca_certs": ca} if ca else {}),
}
client = redis.RedisCluster(**options)
reader = redis.RedisCluster(load_balancing_strategy=LoadBalancingStrategy.RANDOM_REPLICA, **options)
# Each has its own.
name = f"py{protocol}"
keys = [f"{name}:{number}" for number in range(40)]


def hear(channel, number):
    subscriber = client.pubsub()
    subscriber.ssubscribe(channel)
    while (said := subscriber.get_sharded_message(timeout=10))["type"] != "ssubscribe":
        pass
    assert (heard := client.spublish(channel, number)) == 1, f"{heard} have heard it"
    while (said := subscriber.get_sharded_message(timeout=10)) is None or said["type"] != "smessage":
        assert said is not None, "nothing is heard"
    assert said["data"] == str(number)
    subscriber.sunsubscribe(channel)
    subscriber.close()


def step(number):
    nodes = [node.host for each in (client, reader) for node in each.get_nodes()]
    assert nodes == [host] * len(nodes), nodes
    for key in keys:
        assert client.set(key, number)
    for key in keys:
        check(client.get(key), number)
        check(reader.get(key) or 0, number)
    pipeline = client.pipeline()
    for key in keys:
        pipeline.set(key, number)
        pipeline.get(key)
    results = pipeline.execute()
    assert results[::2] == [True] * len(keys), results
    for value in results[1::2]:
        check(value, number)
    with client.pipeline(transaction=True) as transaction:
        transaction.set(f"{{{name}}}one", number)
        transaction.incr(f"{{{name}}}two")
        transaction.get(f"{{{name}}}one")
        check(transaction.execute()[2], number)
    assert client.mset_nonatomic({key: number for key in keys})
    for value in client.mget_nonatomic(keys):
        check(value, number)
    # Later ones may have a failover in their midst, which ends subscriptions.
    if number < 2:
        for channel in range(3):
            hear(f"{name}:{channel}", number)


work(step)
