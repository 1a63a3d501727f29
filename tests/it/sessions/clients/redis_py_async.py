"""redis-py's asynchronous client: HOST PORT PROTOCOL."""

import sys

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from harness import check, work_async

host, port, protocol = sys.argv[1:]


async def start():
    client = redis.Redis(
        host=host,
        port=int(port),
        db=3,
        protocol=int(protocol),
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        single_connection_client=True,
    )

    async def step(number):
        assert await client.set(protocol, number)
        check(await client.get(protocol), number)
        async with client.pipeline(transaction=True) as pipeline:
            result = await pipeline.rpush(f"list:{protocol}", number).get(protocol).execute()
        check(result[1], number)
        assert (await client.client_info())["db"] == 3

    return step


work_async(start)
