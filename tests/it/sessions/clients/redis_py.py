"""redis-py: HOST PORT PROTOCOL PARSER, without retries of its own."""

import sys

import redis
from redis import _parsers
from redis.backoff import NoBackoff
from redis.retry import Retry

from harness import check, work

host, port, protocol, parser = sys.argv[1:]
pool = redis.ConnectionPool(
    host=host,
    port=int(port),
    db=2,
    client_name="somebody",
    protocol=int(protocol),
    parser_class=getattr(_parsers, parser),
    retry=Retry(NoBackoff(), 0),
    decode_responses=True,
)
client = redis.Redis(connection_pool=pool)
# Each has its own.
key = f"{protocol}:{parser}"


def step(number):
    assert client.set(key, number)
    check(client.get(key), number)
    pipeline = client.pipeline(transaction=True)
    check(pipeline.rpush(f"list:{key}", number).get(key).execute()[1], number)
    pipeline = client.pipeline(transaction=False)
    assert len([pipeline.incr("counter") for _ in range(16)]) == 16
    assert len(pipeline.execute()) == 16
    client.hset(f"hash:{key}", mapping={"field": number})
    check(client.hgetall(f"hash:{key}")["field"], number)
    check(client.eval("return redis.call('GET', KEYS[1])", 1, key), number)
    assert client.client_getname() == "somebody"
    assert client.client_info()["db"] == 2


work(step)
