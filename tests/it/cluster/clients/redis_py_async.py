"""redis-py's asynchronous cluster client: HOST PORT PROTOCOL, and TLS where CA_FILE names an authority."""

import asyncio
import os
import sys

import redis.asyncio as redis
from redis.cluster import LoadBalancingStrategy

from harness import check, work_async

host, port, protocol = sys.argv[1:]
ca = os.environ.get("CA_FILE")
options = {
    "host": host,
    "port": int(port),
    "protocol": int(protocol),
    "decode_responses": True,
    **({"ssl": True, "ssl_ca_certs": ca} if ca else {}),
}
# Each has its own; few, since commands at the same time are as many connections, each with a TLS of its own.
name = f"async{protocol}"
keys = [f"{name}:{number}" for number in range(12)]


async def hear(client, channel, number):
    subscriber = client.pubsub()
    await subscriber.ssubscribe(channel)
    while (await subscriber.get_sharded_message(timeout=10))["type"] != "ssubscribe":
        pass
    assert (heard := await client.spublish(channel, number)) == 1, f"{heard} have heard it"
    said = await subscriber.get_sharded_message(timeout=10)
    assert said["type"] == "smessage" and said["data"] == str(number), said
    await subscriber.sunsubscribe(channel)
    await subscriber.aclose()


async def start():
    client = redis.RedisCluster(**options)
    reader = redis.RedisCluster(load_balancing_strategy=LoadBalancingStrategy.RANDOM_REPLICA, **options)
    await client.initialize()
    await reader.initialize()

    async def step(number):
        nodes = [node.host for each in (client, reader) for node in each.get_nodes()]
        assert nodes == [host] * len(nodes), nodes
        assert all(await asyncio.gather(*(client.set(key, number) for key in keys)))
        for each in (client, reader):
            for value in await asyncio.gather(*(each.get(key) for key in keys)):
                check(value or 0, number)
        pipeline = client.pipeline()
        for key in keys:
            pipeline.set(key, number)
            pipeline.get(key)
        results = await pipeline.execute()
        assert results[::2] == [True] * len(keys), results
        for value in results[1::2]:
            check(value, number)
        async with client.pipeline(transaction=True) as transaction:
            transaction.set(f"{{{name}}}one", number)
            transaction.incr(f"{{{name}}}two")
            transaction.get(f"{{{name}}}one")
            check((await transaction.execute())[2], number)
        # Later ones may have a failover in their midst, which ends subscriptions.
        if number < 2:
            for channel in range(3):
                await hear(client, f"{name}:{channel}", number)

    async def step_again(number):
        # Where MOVED leads commands that are under way together to a node, redis-py closes its free connections there while
        # it lends them (ClusterNode.disconnect_free_connections).
        try:
            await step(number)
        except AttributeError as error:
            if str(error) != "'NoneType' object has no attribute 'writelines'":
                raise
            await step(number)

    return step_again


work_async(start)
