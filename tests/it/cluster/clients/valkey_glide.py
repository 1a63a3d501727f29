"""valkey-glide's cluster client: HOST PORT PROTOCOL, and TLS where CA_FILE names an authority."""

import asyncio
import os
import sys

from glide import (
    AdvancedGlideClusterClientConfiguration,
    ClusterBatch,
    GlideClusterClient,
    GlideClusterClientConfiguration,
    Logger,
    LogLevel,
    NodeAddress,
    ProtocolVersion,
    ReadFrom,
    TlsAdvancedConfiguration,
)

from harness import check, work_async

host, port, protocol = sys.argv[1:]
Logger.set_logger_config(LogLevel.WARN)
ca = os.environ.get("CA_FILE")
advanced = None
if ca:
    with open(ca, "rb") as file:
        authority = TlsAdvancedConfiguration(root_pem_cacerts=file.read())
    advanced = AdvancedGlideClusterClientConfiguration(tls_config=authority)
# Each has its own.
name = f"glide{protocol}"
keys = [f"{name}:{number}" for number in range(100)]


async def connect(read_from):
    return await GlideClusterClient.create(
        GlideClusterClientConfiguration(
            [NodeAddress(host, int(port))],
            use_tls=ca is not None,
            read_from=read_from,
            request_timeout=20_000,
            protocol=ProtocolVersion.RESP3 if protocol == "3" else ProtocolVersion.RESP2,
            advanced_config=advanced,
        )
    )


async def hear(client, channel, number):
    await client.ssubscribe({channel}, 10_000)
    await client.publish(str(number), channel, sharded=True)
    said = await asyncio.wait_for(client.get_pubsub_message(), 10)
    assert said.message == str(number).encode() and said.channel == channel.encode(), said
    await client.sunsubscribe({channel}, 10_000)


async def start():
    client = await connect(ReadFrom.PRIMARY)
    reader = await connect(ReadFrom.PREFER_REPLICA)

    async def step(number):
        await asyncio.gather(*(client.set(key, str(number)) for key in keys))
        for each in (client, reader):
            for value in await asyncio.gather(*(each.get(key) for key in keys)):
                check(value or 0, number)
        batch = ClusterBatch(is_atomic=False)
        for key in keys:
            batch.set(key, str(number))
            batch.get(key)
        for value in (await client.exec(batch, raise_on_error=True))[1::2]:
            check(value, number)
        transaction = ClusterBatch(is_atomic=True)
        transaction.set(f"{{{name}}}one", str(number))
        transaction.incr(f"{{{name}}}two")
        transaction.get(f"{{{name}}}one")
        check((await client.exec(transaction, raise_on_error=True))[2], number)
        await client.mset({key: str(number) for key in keys})
        for value in await client.mget(keys):
            check(value, number)
        # Later ones may have a failover in their midst, which ends subscriptions; and they are a matter of RESP3.
        if protocol == "3" and number < 2:
            for channel in range(3):
                await hear(client, f"{name}:{channel}", number)

    return step


work_async(start)
